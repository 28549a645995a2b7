// Compares values and failures with the expected ones.
package main

import (
	"fmt"
	"reflect"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// equal returns an error unless both values are equal; slices and maps are compared by their contents.
func equal(what string, got, want any) error {
	if reflect.DeepEqual(got, want) {
		return nil
	}
	return fmt.Errorf("%s is %v, not %v", what, got, want)
}

// refused returns an error unless a call has failed with this code and a text that contains `part`.
func refused(err error, code codes.Code, part string) error {
	answer := status.Convert(err)
	if answer.Code() == code && strings.Contains(answer.Message(), part) {
		return nil
	}
	return fmt.Errorf("the call ended with %v: %q, not %v: %q", answer.Code(), answer.Message(), code, part)
}
