// Sends one image to the digits model, with stubs that generate.sh makes from headrace's .proto files.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"headrace.example/client/protos/tensorflow/core/framework"
	"headrace.example/client/protos/tensorflow_serving/apis"
)

func main() {
	address := "localhost:8500"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	answer, err := predict(address)
	if err != nil {
		failure := status.Convert(err)
		fmt.Fprintf(os.Stderr, "%s: %s\n", failure.Code(), failure.Message())
		os.Exit(1)
	}
	label := answer.Outputs["label"].Int64Val[0]
	sure := slices.Max(answer.Outputs["probabilities"].FloatVal)
	fmt.Printf("a %d, %.0f%% sure\n", label, 100*sure)
}

func predict(address string) (*apis.PredictResponse, error) {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return apis.NewPredictionServiceClient(connection).Predict(ctx, &apis.PredictRequest{
		ModelSpec: &apis.ModelSpec{Name: "digits"},
		Inputs:    map[string]*framework.TensorProto{"image": image()},
	})
}

// image is a stroke from top to bottom, 8 by 8 pixels in one row of 64.
func image() *framework.TensorProto {
	var pixels [64]float32
	for y := 1; y < 7; y++ {
		pixels[8*y+3], pixels[8*y+4] = 16, 16
	}
	var content []byte // little-endian, as the message requires
	for _, pixel := range pixels {
		content = binary.LittleEndian.AppendUint32(content, math.Float32bits(pixel))
	}
	return &framework.TensorProto{
		Dtype:         framework.DataType_DT_FLOAT,
		TensorShape:   &framework.TensorShapeProto{Dim: []*framework.TensorShapeProto_Dim{{Size: 1}, {Size: 64}}},
		TensorContent: content,
	}
}
