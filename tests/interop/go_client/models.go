// GetModelStatus and HandleReloadConfigRequest: versions, labels and policies, and models that go and come back.
package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"google.golang.org/grpc/codes"

	"headrace.test/client/protos/tensorflow_serving/apis"
	"headrace.test/client/protos/tensorflow_serving/config"
)

// Short names for the types that the generator makes of nested messages.
type (
	policy      = config.FileSystemStoragePathSourceConfig_ServableVersionPolicy
	allOf       = config.FileSystemStoragePathSourceConfig_ServableVersionPolicy_All_
	latestOf    = config.FileSystemStoragePathSourceConfig_ServableVersionPolicy_Latest_
	specificOf  = config.FileSystemStoragePathSourceConfig_ServableVersionPolicy_Specific_
	allMessage  = config.FileSystemStoragePathSourceConfig_ServableVersionPolicy_All
	latestCount = config.FileSystemStoragePathSourceConfig_ServableVersionPolicy_Latest
	specificSet = config.FileSystemStoragePathSourceConfig_ServableVersionPolicy_Specific
)

var (
	everyVersion = &policy{PolicyChoice: &allOf{All: &allMessage{}}}
	latestTwo    = &policy{PolicyChoice: &latestOf{Latest: &latestCount{NumVersions: 2}}}
	oneAndTwo    = &policy{PolicyChoice: &specificOf{Specific: &specificSet{Versions: []int64{1, 2}}}}
)

// states returns the state and error code of each version, in the server's order.
func states(ctx context.Context, server client, spec *apis.ModelSpec) ([]string, error) {
	response, err := server.GetModelStatus(ctx, &apis.GetModelStatusRequest{ModelSpec: spec})
	listed := []string{}
	for _, each := range response.GetModelVersionStatus() {
		listed = append(listed, fmt.Sprint(each.GetVersion(), " ", each.GetState(), " ", each.GetStatus().GetErrorCode()))
	}
	return listed, err
}

func checkStates(ctx context.Context, server client, spec *apis.ModelSpec, want ...string) error {
	got, err := states(ctx, server, spec)
	return errors.Join(err, equal("the status", got, want))
}

// awaitStates asks until the status is as expected, or the time is over.
func awaitStates(ctx context.Context, server client, model string, want ...string) error {
	seen := []string{}
	for {
		got, err := states(ctx, server, latest(model))
		if err != nil {
			return fmt.Errorf("%s has stayed at %v and not become %v: %w", model, seen, want, err)
		}
		if reflect.DeepEqual(got, want) {
			return nil
		}
		seen = got
	}
}

func checkStatus(ctx context.Context, server client) error {
	_, missing := states(ctx, server, nil)
	_, version9 := states(ctx, server, version("sums", 9))
	_, nobody := states(ctx, server, latest("nobody"))
	return errors.Join(
		checkStates(ctx, server, latest("sums"), "3 AVAILABLE OK", "2 AVAILABLE OK", "1 AVAILABLE OK"),
		checkStates(ctx, server, version("sums", 2), "2 AVAILABLE OK"),
		checkStates(ctx, server, latest("tariff"), "1 AVAILABLE OK"),
		refused(missing, codes.InvalidArgument, "Missing ModelSpec"),
		refused(version9, codes.NotFound, "Could not find version 9 of model sums"),
		refused(nobody, codes.NotFound, "Could not find any versions of model nobody"),
	)
}

func (server client) model(name string, served *policy, labels map[string]int64) *config.ModelConfig {
	return &config.ModelConfig{
		Name:               name,
		BasePath:           server.root + "/" + name,
		ModelPlatform:      "tensorflow",
		ModelVersionPolicy: served,
		VersionLabels:      labels,
	}
}

func reload(
	ctx context.Context, server client, models ...*config.ModelConfig,
) (*apis.ReloadConfigResponse, error) {
	list := &config.ModelServerConfig_ModelConfigList{ModelConfigList: &config.ModelConfigList{Config: models}}
	return server.HandleReloadConfigRequest(ctx, &apis.ReloadConfigRequest{
		Config: &config.ModelServerConfig{Config: list}, MetricNames: []string{"/not/counted"},
	})
}

// reloadAndCheck loads a list of models, which must be accepted.
func reloadAndCheck(ctx context.Context, server client, models ...*config.ModelConfig) error {
	response, err := reload(ctx, server, models...)
	if err != nil {
		return err
	}
	metrics := []string{}
	for _, metric := range response.GetMetric() {
		metrics = append(metrics, fmt.Sprint(metric.GetName(), " ", metric.GetInt64ValueIncrease()))
	}
	return errors.Join(
		equal("the error", response.GetStatus().GetErrorCode().String(), "OK"),
		equal("the metrics", metrics, []string{"/not/counted 0"}),
	)
}

func checkReloadRefusals(ctx context.Context, server client) error {
	_, nothing := server.HandleReloadConfigRequest(ctx, &apis.ReloadConfigRequest{})
	sums := server.model("sums", everyVersion, nil)
	_, twice := reload(ctx, server, sums, sums)
	_, relative := reload(ctx, server, &config.ModelConfig{Name: "sums", BasePath: "sums", ModelPlatform: "tensorflow"})
	_, unavailable := reload(ctx, server, server.model("sums", everyVersion, map[string]int64{"stable": 9}))
	return errors.Join(
		refused(nothing, codes.InvalidArgument, "Only ModelConfigList is currently supported"),
		refused(twice, codes.InvalidArgument, "Illegal to list model sums multiple times in config list"),
		refused(relative, codes.InvalidArgument, "Expected model sums to have an absolute path or URI; got base_path()=sums"),
		refused(unavailable, codes.FailedPrecondition, "Request to assign label to version 9 of model sums"),
		checkTotal(ctx, server, 1, label("sums", "stable"), listed(1, 2, 3, 4)),
	)
}

// checkReload moves labels, removes a model and versions, and brings them back.
func checkReload(ctx context.Context, server client) error {
	for _, step := range []func(context.Context, client) error{checkLabels, checkSpecific, checkLatest, checkReturn} {
		if err := step(ctx, server); err != nil {
			return err
		}
	}
	return nil
}

func checkLabels(ctx context.Context, server client) error {
	labels := map[string]int64{"stable": 2, "canary": 3}
	if err := reloadAndCheck(ctx, server, server.model("sums", everyVersion, labels)); err != nil {
		return err
	}
	x := listed(1, 2, 3, 4)
	_, gone := predict(ctx, server, label("sums", "a/b:c"), x)
	return errors.Join(
		checkTotal(ctx, server, 2, label("sums", "stable"), x),
		checkTotal(ctx, server, 3, label("sums", "canary"), x),
		refused(gone, codes.InvalidArgument, "Unrecognized servable version label: a/b:c"),
		awaitStates(ctx, server, "tariff", "1 END OK"),
	)
}

func checkSpecific(ctx context.Context, server client) error {
	if err := reloadAndCheck(ctx, server, server.model("sums", oneAndTwo, nil)); err != nil {
		return err
	}
	return errors.Join(
		awaitStates(ctx, server, "sums", "3 END OK", "2 AVAILABLE OK", "1 AVAILABLE OK"),
		checkTotal(ctx, server, 2, latest("sums"), listed(1, 2, 3, 4)),
	)
}

func checkLatest(ctx context.Context, server client) error {
	if err := reloadAndCheck(ctx, server, server.model("sums", latestTwo, nil)); err != nil {
		return err
	}
	return awaitStates(ctx, server, "sums", "3 AVAILABLE OK", "2 AVAILABLE OK", "1 END OK")
}

func checkReturn(ctx context.Context, server client) error {
	if err := reloadAndCheck(ctx, server); err != nil {
		return err
	}
	if err := awaitStates(ctx, server, "sums", "3 END OK", "2 END OK", "1 END OK"); err != nil {
		return err
	}
	both := []*config.ModelConfig{server.model("sums", everyVersion, nil), server.model("tariff", nil, nil)}
	return errors.Join(
		reloadAndCheck(ctx, server, both...),
		awaitStates(ctx, server, "sums", "3 AVAILABLE OK", "2 AVAILABLE OK", "1 AVAILABLE OK"),
		checkStates(ctx, server, latest("tariff"), "1 AVAILABLE OK"),
		checkTotal(ctx, server, 3, latest("sums"), listed(1, 2, 3, 4)),
	)
}
