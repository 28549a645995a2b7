"""`headrace bench`: a load generator for any server of TF Serving's API or of the Open Inference Protocol."""
