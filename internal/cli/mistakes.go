package cli

import (
	"errors"
	"fmt"
	"slices"

	"sdbackup/internal/config"
)

// place is where a configuration is: a Location or a Source.
type place interface{ flags() string }

// flags is what names this configuration on another command line.
func (l Location) flags() string {
	text := ""
	if l.Config != "" {
		text = " --config " + l.Config
	}
	if l.User {
		text += " --user"
	}
	return text
}

// flags is likewise. What was fetched is in a place that goes away.
func (s Source) flags() string {
	if s.Remote == "" {
		return s.Location.flags()
	}
	return " --remote " + s.Remote + Location{User: s.User}.flags()
}

// Mistakes is for the end of a command that did what can be done in spite of the mistakes in the configuration, and ended with err. When
// anything of the configuration could not be read, nobody knows what is missing: that is an error, with every mistake. Others are only
// hinted at, on standard error.
func Mistakes(env *Env, name string, at place, mistakes []config.Problem, err error) error {
	if slices.ContainsFunc(mistakes, config.Problem.Hides) {
		return &ExitError{Code: ExitUsage, Err: errors.Join(err, AllMistakes(mistakes))}
	}
	if len(mistakes) > 0 {
		fmt.Fprintf(env.Stderr, "%s: the configuration has errors: see \"schedule-backup check%s\"\n", name, at.flags())
	}
	return err
}

// AllMistakes is every mistake, file:line: key: text, as an error; nil when there is none.
func AllMistakes(mistakes []config.Problem) error {
	var errs []error
	for _, p := range mistakes {
		errs = append(errs, errors.New(p.String()))
	}
	return errors.Join(errs...)
}
