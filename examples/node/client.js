// Sends one image to the digits model with grpc-js, which reads the .proto files when it starts.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const address = process.argv[2] ?? "localhost:8500";
const protos = fileURLToPath(new URL("../../protos/headrace_protos", import.meta.url));
const definition = loadSync("tensorflow_serving/apis/prediction_service.proto", { includeDirs: [protos], keepCase: true });
const { PredictionService } = grpc.loadPackageDefinition(definition).tensorflow.serving;

const client = new PredictionService(address, grpc.credentials.createInsecure());
const image = new Float32Array(64);
for (let y = 1; y < 7; y += 1) image.fill(16, 8 * y + 3, 8 * y + 5); // a stroke from top to bottom

const request = {
  model_spec: { name: "digits" },
  inputs: {
    image: {
      dtype: "DT_FLOAT",
      tensor_shape: { dim: [{ size: 1 }, { size: 64 }] },
      tensor_content: Buffer.from(image.buffer), // little-endian, as the message requires
    },
  },
};

client.predict(request, { deadline: Date.now() + 10_000 }, (error, response) => {
  client.close();
  if (error) {
    console.error(`${grpc.status[error.code]}: ${error.details}`);
    process.exitCode = 1;
    return;
  }
  const { label, probabilities } = response.outputs;
  console.log(`a ${label.int64_val[0]}, ${Math.round(100 * Math.max(...probabilities.float_val))}% sure`);
});
