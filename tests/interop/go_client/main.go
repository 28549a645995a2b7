// Makes every call of the API with stubs that were generated from the .proto files, against a server of two models.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"headrace.test/client/protos/tensorflow_serving/apis"
)

// How long all the calls together may take.
const within = 20 * time.Second

// client is one connection to the server, with a stub for each of its services.
type client struct {
	apis.PredictionServiceClient
	apis.ModelServiceClient
	root string // the folder that holds the models' base paths
}

func main() {
	address := flag.String("address", "", "the server's host and port")
	root := flag.String("root", "", "the folder that holds the base paths of sums and tariff")
	flag.Parse()
	if err := run(*address, *root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run makes every check in turn, and returns the error of the first one that fails.
func run(address, root string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	server := client{apis.NewPredictionServiceClient(connection), apis.NewModelServiceClient(connection), root}
	for _, check := range []struct {
		call string
		made func(context.Context, client) error
	}{
		{"Predict", checkPredict},
		{"Predict, refused", checkPredictRefusals},
		{"Classify", checkClassify},
		{"Regress", checkRegress},
		{"MultiInference", checkMultiInference},
		{"examples, refused", checkExampleRefusals},
		{"GetModelMetadata", checkMetadata},
		{"GetModelStatus", checkStatus},
		{"HandleReloadConfigRequest, refused", checkReloadRefusals},
		{"HandleReloadConfigRequest", checkReload}, // the last, since it changes what is served
	} {
		if err := check.made(ctx, server); err != nil {
			return fmt.Errorf("%s: %w", check.call, err)
		}
	}
	return nil
}
