// What a check compares: values with those that are right, and a failure with the one that ought to be.
package main

import (
	"fmt"
	"reflect"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// equal is an error unless both are the same; slices and maps are compared by what they hold.
func equal(what string, got, want any) error {
	if reflect.DeepEqual(got, want) {
		return nil
	}
	return fmt.Errorf("%s is %v, not %v", what, got, want)
}

// refused is an error unless a call has failed with a code and a text that has `part` in it.
func refused(err error, code codes.Code, part string) error {
	answer := status.Convert(err)
	if answer.Code() == code && strings.Contains(answer.Message(), part) {
		return nil
	}
	return fmt.Errorf("the call ended with %v: %q, not %v: %q", answer.Code(), answer.Message(), code, part)
}
