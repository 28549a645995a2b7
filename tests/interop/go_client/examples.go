// Classify, Regress and MultiInference of tariff: its scores are the weights plus the age, its price is their sum.
package main

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"headrace.test/client/protos/tensorflow/core/example"
	"headrace.test/client/protos/tensorflow_serving/apis"
)

const (
	classify = "tensorflow/serving/classify"
	regress  = "tensorflow/serving/regress"
)

// The classes and the prices of the two rows that examples() and withContext() return.
var (
	classes = [][]string{{"lo 1.5", "hi 2.5"}, {"lo 5", "hi 6"}}
	prices  = []float32{4, 11}
)

func ages(values ...int64) *example.Feature {
	return &example.Feature{Kind: &example.Feature_Int64List{Int64List: &example.Int64List{Value: values}}}
}

func weights(values ...float32) *example.Feature {
	return &example.Feature{Kind: &example.Feature_FloatList{FloatList: &example.FloatList{Value: values}}}
}

func row(features map[string]*example.Feature) *example.Example {
	return &example.Example{Features: &example.Features{Feature: features}}
}

func inputOf(examples ...*example.Example) *apis.Input {
	return &apis.Input{Kind: &apis.Input_ExampleList{ExampleList: &apis.ExampleList{Examples: examples}}}
}

// examples returns both rows as complete Examples.
func examples() *apis.Input {
	return inputOf(
		row(map[string]*example.Feature{"age": ages(1), "weights": weights(0.5, 1.5)}),
		row(map[string]*example.Feature{"age": ages(2), "weights": weights(3, 4)}),
	)
}

// withContext returns both rows; the first takes its weights from the context.
func withContext() *apis.Input {
	list := &apis.ExampleListWithContext{
		Context: row(map[string]*example.Feature{"age": ages(7), "weights": weights(0.5, 1.5)}),
		Examples: []*example.Example{
			row(map[string]*example.Feature{"age": ages(1)}),
			row(map[string]*example.Feature{"age": ages(2), "weights": weights(3, 4)}),
		},
	}
	return &apis.Input{Kind: &apis.Input_ExampleListWithContext{ExampleListWithContext: list}}
}

func checkClasses(result *apis.ClassificationResult) error {
	got := [][]string{}
	for _, row := range result.GetClassifications() {
		labelled := []string{}
		for _, class := range row.GetClasses() {
			labelled = append(labelled, fmt.Sprint(class.GetLabel(), " ", class.GetScore()))
		}
		got = append(got, labelled)
	}
	return equal("the classes", got, classes)
}

func checkPrices(result *apis.RegressionResult) error {
	got := []float32{}
	for _, row := range result.GetRegressions() {
		got = append(got, row.GetValue())
	}
	return equal("the values", got, prices)
}

func checkClassify(ctx context.Context, server client) error {
	for _, input := range []*apis.Input{examples(), withContext()} {
		request := &apis.ClassificationRequest{ModelSpec: signature("tariff", "classify"), Input: input}
		response, err := server.Classify(ctx, request)
		if err != nil {
			return err
		}
		spec := response.GetModelSpec()
		if err := errors.Join(
			checkClasses(response.GetResult()),
			equal("the version", spec.GetVersion().GetValue(), int64(1)),
			equal("the signature", spec.GetSignatureName(), "classify"),
		); err != nil {
			return err
		}
	}
	return nil
}

func checkRegress(ctx context.Context, server client) error {
	for _, input := range []*apis.Input{examples(), withContext()} {
		request := &apis.RegressionRequest{ModelSpec: signature("tariff", "regress"), Input: input}
		response, err := server.Regress(ctx, request)
		if err != nil {
			return err
		}
		if err := errors.Join(
			checkPrices(response.GetResult()),
			equal("the model", response.GetModelSpec().GetName(), "tariff"),
		); err != nil {
			return err
		}
	}
	return nil
}

func multiInference(
	ctx context.Context, server client, tasks ...*apis.InferenceTask,
) (*apis.MultiInferenceResponse, error) {
	return server.MultiInference(ctx, &apis.MultiInferenceRequest{Tasks: tasks, Input: examples()})
}

func task(signatureName, method string) *apis.InferenceTask {
	return &apis.InferenceTask{ModelSpec: signature("tariff", signatureName), MethodName: method}
}

func checkMultiInference(ctx context.Context, server client) error {
	response, err := multiInference(ctx, server, task("regress", regress), task("classify", classify))
	if err != nil {
		return err
	}
	results := response.GetResults()
	if len(results) != 2 {
		return fmt.Errorf("there are %d results, not 2", len(results))
	}
	return errors.Join(
		checkPrices(results[0].GetRegressionResult()),
		equal("the first signature", results[0].GetModelSpec().GetSignatureName(), "regress"),
		checkClasses(results[1].GetClassificationResult()),
		equal("the second signature", results[1].GetModelSpec().GetSignatureName(), "classify"),
	)
}

func checkExampleRefusals(ctx context.Context, server client) error {
	wrong := inputOf(row(map[string]*example.Feature{"age": weights(1), "weights": weights(0.5, 1.5)}))
	_, mistyped := server.Regress(ctx, &apis.RegressionRequest{ModelSpec: signature("tariff", "regress"), Input: wrong})
	_, empty := server.Classify(ctx, &apis.ClassificationRequest{ModelSpec: signature("tariff", "classify")})
	_, unknown := server.Classify(
		ctx, &apis.ClassificationRequest{ModelSpec: signature("tariff", "other"), Input: examples()},
	)
	_, twice := multiInference(ctx, server, task("regress", regress), task("regress", regress))
	_, unsupported := multiInference(ctx, server, task("regress", "tensorflow/serving/predict"))
	_, none := multiInference(ctx, server)
	return errors.Join(
		refused(mistyped, codes.InvalidArgument, "Data types don't match. Data type: float but expected type: int64"),
		refused(empty, codes.InvalidArgument, "Input is empty."),
		refused(unknown, codes.InvalidArgument, "No signature was found with the name: other"),
		refused(twice, codes.InvalidArgument, "Duplicate evaluation of signature: regress"),
		refused(unsupported, codes.Unimplemented, "Unsupported signature method_name: tensorflow/serving/predict"),
		refused(none, codes.InvalidArgument, "ModelSpec has no name specified."),
	)
}
