// A bare grpc++ responder: decodes each kind of call, answers it with a message of the right shape, and runs no model.
//
// Usage: responder PORT OUTPUTS, where OUTPUTS is the number of floats per row of the answer. The server is grpc++'s
// synchronous one with its defaults, on loopback; SIGTERM ends it.

#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "tensorflow_serving/apis/prediction_service.grpc.pb.h"

namespace {

using namespace tensorflow::serving;  // NOLINT: the messages of all calls

class Responder final : public PredictionService::Service {
 public:
  explicit Responder(int outputs) : outputs_(outputs) {}

  grpc::Status Predict(grpc::ServerContext*, const PredictRequest* request, PredictResponse* response) override {
    const auto input = request->inputs().find("x");
    if (input == request->inputs().end() || input->second.tensor_shape().dim_size() == 0) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "no input x with a batch axis"};
    }
    Effective(request->model_spec(), response->mutable_model_spec());
    if (input->second.dtype() == tensorflow::DT_STRING) {
      (*response->mutable_outputs())["y"] = input->second;
      return grpc::Status::OK;
    }
    Answer(input->second.tensor_shape().dim(0).size(), (*response->mutable_outputs())["y"]);
    return grpc::Status::OK;
  }

  grpc::Status Classify(grpc::ServerContext*, const ClassificationRequest* request,
                        ClassificationResponse* response) override {
    Effective(request->model_spec(), response->mutable_model_spec());
    Classes(request->input(), response->mutable_result());
    return grpc::Status::OK;
  }

  grpc::Status Regress(grpc::ServerContext*, const RegressionRequest* request, RegressionResponse* response) override {
    Effective(request->model_spec(), response->mutable_model_spec());
    Values(request->input(), response->mutable_result());
    return grpc::Status::OK;
  }

  grpc::Status MultiInference(grpc::ServerContext*, const MultiInferenceRequest* request,
                              MultiInferenceResponse* response) override {
    for (const auto& task : request->tasks()) {
      auto* result = response->add_results();
      Effective(task.model_spec(), result->mutable_model_spec());
      if (task.method_name() == "tensorflow/serving/classify") {
        Classes(request->input(), result->mutable_classification_result());
      } else {
        Values(request->input(), result->mutable_regression_result());
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status GetModelMetadata(grpc::ServerContext*, const GetModelMetadataRequest* request,
                                GetModelMetadataResponse* response) override {
    Effective(request->model_spec(), response->mutable_model_spec());
    SignatureDefMap map;
    auto& signature = (*map.mutable_signature_def())["serving_default"];
    signature.set_method_name("tensorflow/serving/predict");
    Describe("x", (*signature.mutable_inputs())["x"]);
    Describe("y", (*signature.mutable_outputs())["y"]);
    (*response->mutable_metadata())["signature_def"].PackFrom(map);
    return grpc::Status::OK;
  }

 private:
  static void Effective(const ModelSpec& asked, ModelSpec* spec) {
    *spec = asked;
    spec->mutable_version()->set_value(1);
    if (spec->signature_name().empty()) spec->set_signature_name("serving_default");
  }

  static void Describe(const char* name, tensorflow::TensorInfo& info) {
    info.set_name(name);
    info.set_dtype(tensorflow::DT_FLOAT);
    info.mutable_tensor_shape()->add_dim()->set_size(-1);
    info.mutable_tensor_shape()->add_dim()->set_size(16);
  }

  void Classes(const Input& input, ClassificationResult* result) const {
    for (int i = 0; i < input.example_list().examples_size(); ++i) {
      auto* row = result->add_classifications();
      for (int j = 0; j < outputs_; ++j) row->add_classes()->set_score(0.5f);
    }
  }

  static void Values(const Input& input, RegressionResult* result) {
    for (int i = 0; i < input.example_list().examples_size(); ++i) result->add_regressions()->set_value(0.5f);
  }

  void Answer(int64_t rows, tensorflow::TensorProto& output) const {
    output.set_dtype(tensorflow::DT_FLOAT);
    output.mutable_tensor_shape()->add_dim()->set_size(rows);
    output.mutable_tensor_shape()->add_dim()->set_size(outputs_);
    output.mutable_float_val()->Resize(static_cast<int>(rows) * outputs_, 0.0f);
  }

  const int outputs_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: responder PORT OUTPUTS\n";
    return 2;
  }
  Responder responder(std::atoi(argv[2]));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(std::string("127.0.0.1:") + argv[1], grpc::InsecureServerCredentials());
  builder.RegisterService(&responder);
  const auto server = builder.BuildAndStart();
  if (!server) return 1;
  server->Wait();
}
