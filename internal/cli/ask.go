package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Terminal returns the terminal that standard input is, nil when it is none.
func Terminal(env *Env) *os.File {
	f, ok := env.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return f
}

// AskSecret asks for a secret without showing it; "" when there was no answer.
func AskSecret(ctx context.Context, env *Env, tty *os.File, question string) (string, error) {
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	text, err := answer(ctx, env, question, func() (string, error) {
		text, err := term.ReadPassword(fd)
		return string(text), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(fd, before) // the reader stays where it is, but the terminal must show again what is typed
	}
	fmt.Fprintln(env.Stderr)
	return text, err
}

// AskPassphrase asks for the passphrase of a copy of a node, unless standard input is not free for that.
func AskPassphrase(ctx context.Context, env *Env, free bool) (string, error) {
	tty := Terminal(env)
	if tty == nil || !free {
		return "", &ExitError{Code: ExitUsage, Err: errors.New("there is no terminal to ask for the passphrase at; want --passphrase-file or --passphrase-credential")}
	}
	return AskSecret(ctx, env, tty, "passphrase of the copy: ")
}

// Confirm asks a question; only y and yes agree.
func Confirm(ctx context.Context, env *Env, tty *os.File, question string) (bool, error) {
	text, err := answer(ctx, env, question+" [y/N] ", func() (string, error) { return bufio.NewReader(tty).ReadString('\n') })
	if err != nil {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}

// answer waits for an answer, or for ctx.
func answer(ctx context.Context, env *Env, question string, read func() (string, error)) (string, error) {
	fmt.Fprint(env.Stderr, question)
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		if errors.Is(a.err, io.EOF) {
			a.err = nil
		}
		return a.text, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
