// Predict and GetModelMetadata of sums, whose y is the sum of a row of x and a hundred times the version.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"headrace.test/client/protos/tensorflow/core/framework"
	"headrace.test/client/protos/tensorflow_serving/apis"
)

// latest is the ModelSpec that leaves the choice of the version to the server.
func latest(model string) *apis.ModelSpec {
	return &apis.ModelSpec{Name: model}
}

func version(model string, number int64) *apis.ModelSpec {
	return &apis.ModelSpec{Name: model, VersionChoice: &apis.ModelSpec_Version{Version: wrapperspb.Int64(number)}}
}

func label(model, name string) *apis.ModelSpec {
	return &apis.ModelSpec{Name: model, VersionChoice: &apis.ModelSpec_VersionLabel{VersionLabel: name}}
}

func signature(model, name string) *apis.ModelSpec {
	return &apis.ModelSpec{Name: model, SignatureName: name}
}

func shape(sizes ...int64) *framework.TensorShapeProto {
	message := &framework.TensorShapeProto{}
	for _, size := range sizes {
		message.Dim = append(message.Dim, &framework.TensorShapeProto_Dim{Size: size})
	}
	return message
}

// listed returns a row as typed values.
func listed(row ...float32) *framework.TensorProto {
	return &framework.TensorProto{
		Dtype: framework.DataType_DT_FLOAT, TensorShape: shape(1, int64(len(row))), FloatVal: row,
	}
}

// packed returns a row as bytes.
func packed(row ...float32) *framework.TensorProto {
	content := []byte{}
	for _, value := range row {
		content = binary.LittleEndian.AppendUint32(content, math.Float32bits(value))
	}
	return &framework.TensorProto{
		Dtype: framework.DataType_DT_FLOAT, TensorShape: shape(1, int64(len(row))), TensorContent: content,
	}
}

func predict(
	ctx context.Context, server client, spec *apis.ModelSpec, x *framework.TensorProto, filter ...string,
) (*apis.PredictResponse, error) {
	inputs := map[string]*framework.TensorProto{"x": x}
	return server.Predict(ctx, &apis.PredictRequest{ModelSpec: spec, Inputs: inputs, OutputFilter: filter})
}

// checkTotal predicts a row that sums up to ten, and finds in the answer the version that has run.
func checkTotal(
	ctx context.Context, server client, ran int64, spec *apis.ModelSpec, x *framework.TensorProto, filter ...string,
) error {
	response, err := predict(ctx, server, spec, x, filter...)
	if err != nil {
		return err
	}
	y := response.GetOutputs()["y"]
	sizes := []int64{}
	for _, dim := range y.GetTensorShape().GetDim() {
		sizes = append(sizes, dim.GetSize())
	}
	return errors.Join(
		equal("the number of outputs", len(response.GetOutputs()), 1),
		equal("y", y.GetFloatVal(), []float32{10 + 100*float32(ran)}),
		equal("y's dtype", y.GetDtype(), framework.DataType_DT_FLOAT),
		equal("y's shape", sizes, []int64{1, 1}),
		checkSpec(response.GetModelSpec(), ran, "serving_default"),
	)
}

// checkSpec checks the ModelSpec of a response of sums, which has no label.
func checkSpec(spec *apis.ModelSpec, ran int64, signatureName string) error {
	return errors.Join(
		equal("the model", spec.GetName(), "sums"),
		equal("the version", spec.GetVersion().GetValue(), ran),
		equal("the label", spec.GetVersionLabel(), ""),
		equal("the signature", spec.GetSignatureName(), signatureName),
	)
}

func checkPredict(ctx context.Context, server client) error {
	x := listed(1, 2, 3, 4)
	return errors.Join(
		checkTotal(ctx, server, 3, latest("sums"), x),
		checkTotal(ctx, server, 3, latest("sums"), packed(1, 2, 3, 4)),
		checkTotal(ctx, server, 3, signature("sums", "serving_default"), x, "y"),
		checkTotal(ctx, server, 2, version("sums", 2), x),
		checkTotal(ctx, server, 1, label("sums", "stable"), x),
		checkTotal(ctx, server, 2, label("sums", "a/b:c"), x),
	)
}

func checkPredictRefusals(ctx context.Context, server client) error {
	x := listed(1, 2, 3, 4)
	integer := &framework.TensorProto{Dtype: framework.DataType_DT_INT32, TensorShape: shape(1, 4)}
	broken := packed(1, 2, 3, 4)
	broken.TensorContent = broken.TensorContent[1:]
	found := []error{}
	for _, wrong := range []struct {
		spec   *apis.ModelSpec
		x      *framework.TensorProto
		filter []string
		code   codes.Code
		part   string
	}{
		{nil, x, nil, codes.InvalidArgument, "Missing ModelSpec"},
		{latest(""), x, nil, codes.InvalidArgument, "ModelSpec has no name specified."},
		{latest("nobody"), x, nil, codes.NotFound, "Servable not found for request: Latest(nobody)"},
		{version("sums", 9), x, nil, codes.NotFound, "Servable not found for request: Specific(sums, 9)"},
		{label("sums", "none"), x, nil, codes.InvalidArgument, "Unrecognized servable version label: none"},
		{signature("sums", "other"), x, nil, codes.FailedPrecondition, `Serving signature key "other" not found.`},
		{latest("sums"), integer, nil, codes.InvalidArgument, "to be float but int32 is provided"},
		{latest("sums"), broken, nil, codes.InvalidArgument, "tensor parsing error: x"},
		{latest("sums"), x, []string{"z"}, codes.InvalidArgument, "output tensor alias not found in signature: z"},
		{latest("sums"), x, []string{"y", "y"}, codes.InvalidArgument, "duplicate output tensor alias: y"},
	} {
		_, err := predict(ctx, server, wrong.spec, wrong.x, wrong.filter...)
		found = append(found, refused(err, wrong.code, wrong.part))
	}
	return errors.Join(found...)
}

func metadata(
	ctx context.Context, server client, spec *apis.ModelSpec, fields ...string,
) (*apis.GetModelMetadataResponse, error) {
	return server.GetModelMetadata(ctx, &apis.GetModelMetadataRequest{ModelSpec: spec, MetadataField: fields})
}

func checkMetadata(ctx context.Context, server client) error {
	response, err := metadata(ctx, server, label("sums", "stable"), "signature_def")
	if err != nil {
		return err
	}
	signatures := &apis.SignatureDefMap{}
	if err := response.GetMetadata()["signature_def"].UnmarshalTo(signatures); err != nil {
		return err
	}
	served := signatures.GetSignatureDef()["serving_default"]
	x := served.GetInputs()["x"]
	_, none := metadata(ctx, server, latest("sums"))
	_, unknown := metadata(ctx, server, latest("sums"), "other")
	_, absent := metadata(ctx, server, latest("nobody"), "signature_def")
	return errors.Join(
		checkSpec(response.GetModelSpec(), 1, ""),
		equal("the number of signatures", len(signatures.GetSignatureDef()), 1),
		equal("the method", served.GetMethodName(), "tensorflow/serving/predict"),
		equal("x's dtype", x.GetDtype(), framework.DataType_DT_FLOAT),
		equal("x's width", x.GetTensorShape().GetDim()[1].GetSize(), int64(4)),
		equal("y's dtype", served.GetOutputs()["y"].GetDtype(), framework.DataType_DT_FLOAT),
		refused(none, codes.InvalidArgument, "must specify at least one metadata_field"),
		refused(unknown, codes.InvalidArgument, "Metadata field other is not supported"),
		refused(absent, codes.NotFound, "Servable not found for request: Latest(nobody)"),
	)
}
