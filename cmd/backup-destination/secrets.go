package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
)

// standardInput names it where a file is wanted.
const standardInput = "-"

// maxSecret bounds what is read of a file that is handed in. An rclone.conf of many letters that take more than one byte fits.
const maxSecret = 1 << 20

// readFile reads a file, or standard input.
func readFile(env *cli.Env, flag, name string) ([]byte, error) {
	in := env.Stdin
	if name != standardInput {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	if len(data) > maxSecret {
		return nil, mistake("--%s: is larger than %d bytes", flag, maxSecret)
	}
	return data, nil
}

// readSecret reads a secret from the file that a flag names.
func readSecret(env *cli.Env, flag, name string) (destination.Secret, error) {
	if name == "" {
		return "", nil
	}
	data, err := readFile(env, flag, name)
	if err != nil {
		return "", err
	}
	secret, err := destination.ParseSecret(data)
	if err != nil {
		return "", mistake("--%s: %w", flag, err)
	}
	return secret, nil
}

func mistake(format string, args ...any) error {
	return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf(format, args...)}
}

// once refuses standard input for more than one thing.
func once(files ...string) error {
	if i := slices.Index(files, standardInput); i >= 0 && slices.Contains(files[i+1:], standardInput) {
		return mistake("standard input can be read once only; want a file for the others")
	}
	return nil
}

// ask asks for a secret without showing it.
func ask(ctx context.Context, env *cli.Env, tty *os.File, question string) (destination.Secret, error) {
	text, err := cli.AskSecret(ctx, env, tty, question)
	if err != nil || text == "" {
		return "", err
	}
	return destination.ParseSecret([]byte(text))
}

// askTwice asks for a new secret; an empty answer is one, too.
func askTwice(ctx context.Context, env *cli.Env, tty *os.File, question string) (destination.Secret, error) {
	first, err := ask(ctx, env, tty, question)
	if err != nil || first == "" {
		return "", err
	}
	second, err := ask(ctx, env, tty, "once more: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", mistake("the two passwords differ; nothing was changed")
	}
	return first, nil
}
