// A bare grpc++ responder: decodes a Predict, answers zeros of the right shape, and infers nothing.
//
// Usage: responder PORT OUTPUTS, where OUTPUTS is the floats of one row's answer. The server is grpc++'s default
// synchronous one, on loopback; SIGTERM ends it.

#include <grpcpp/grpcpp.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "tensorflow_serving/apis/prediction_service.grpc.pb.h"

namespace {

using tensorflow::serving::PredictionService;
using tensorflow::serving::PredictRequest;
using tensorflow::serving::PredictResponse;

class Responder final : public PredictionService::Service {
 public:
  explicit Responder(int outputs) : outputs_(outputs) {}

  grpc::Status Predict(grpc::ServerContext*, const PredictRequest* request, PredictResponse* response) override {
    const auto input = request->inputs().find("x");
    if (input == request->inputs().end() || input->second.tensor_shape().dim_size() == 0) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "no input x with a batch axis"};
    }
    *response->mutable_model_spec() = request->model_spec();
    response->mutable_model_spec()->mutable_version()->set_value(1);
    Answer(input->second.tensor_shape().dim(0).size(), (*response->mutable_outputs())["y"]);
    return grpc::Status::OK;
  }

 private:
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
