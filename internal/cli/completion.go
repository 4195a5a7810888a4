package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	posener "github.com/posener/complete"

	"sdbackup/internal/config"
)

// version and commit are set by the linker; without them the build information tells.
var version, commit string

// common are the flags that every binary has.
type common struct {
	Version    versionFlag    `help:"Print the version and exit."`
	Completion completionFlag `hidden:"" placeholder:"SHELL" help:"Print what makes bash, zsh or fish complete this command."`
	Man        manFlag        `hidden:"" help:"Print the manual page of this command."`
}

type versionFlag bool

// BeforeReset implements a hook of kong: it runs before required arguments are missed.
func (versionFlag) BeforeReset(app *kong.Kong) error {
	fmt.Fprintf(app.Stdout, "%s %s (commit %s, %s)\n", app.Model.Name, Version(), revision(), runtime.Version())
	app.Exit(ExitOK)
	return nil
}

// Version is the version of this build.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// revision is the commit that this build is of.
func revision() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

type completionFlag string

// BeforeReset implements a hook of kong.
func (f completionFlag) BeforeReset(app *kong.Kong, ctx *kong.Context, path *kong.Path) error {
	name := app.Model.Name
	shell, _ := ctx.FlagValue(path.Flag).(completionFlag)
	lines := map[completionFlag]string{
		"bash": "complete -o nosort -C " + name + " " + name, // in the order in which complete prints
		"zsh":  zshCompletion(name),
		"fish": "complete -c " + name + " -f -a \"(env COMP_LINE=(commandline -cp) " + name + ")\"",
	}
	if lines[shell] == "" {
		return fmt.Errorf("--completion: unknown shell %q: want bash, zsh or fish", string(shell))
	}
	fmt.Fprintln(app.Stdout, lines[shell])
	app.Exit(ExitOK)
	return nil
}

// zshCompletion is good for evaluation and as a file that zsh loads at the first completion, zshcompsys(1): then it completes that, too.
func zshCompletion(name string) string {
	return "#compdef " + name + "\nautoload -U +X bashcompinit && bashcompinit\ncomplete -C " + name + " " + name +
		"\n[[ ${funcstack[1]} != _" + name + " ]] || _bash_complete -C " + name
}

// Completing is a grammar that knows what some of its arguments can be, those with the predictor "known".
type Completing interface {
	// Known returns it in the order in which it is to be shown; flag returns the value of a flag that is typed already, "" where it is not. It has to
	// leave no trace, and what it prints and logs goes nowhere. Nobody waits for it any more when the context ends.
	Known(ctx context.Context, env *Env, flag func(name string) string) []string
}

// completionTime is how long a shell waits for Known.
const completionTime = 2 * time.Second

// complete answers the shell when it asks for completions, in the environment, and ends the program then.
func complete(parser *kong.Kong, grammar any, env *Env) {
	line := env.Getenv("COMP_LINE")
	if line == "" {
		return
	}
	words := strings.Fields(line) // a predictor gets only those from its command on
	ids := func(list func(*config.Config) []string) posener.Predictor {
		return posener.PredictFunc(func(posener.Args) []string {
			location := Location{Config: cmp.Or(typed(words, "--config"), env.Getenv("SDBACKUP_CONFIG")), User: typed(words, "--user") != ""}
			return list(config.Load(location.Paths(env).Config, nil))
		})
	}
	ordered := false
	known := posener.PredictFunc(func(posener.Args) []string {
		ordered = true
		return known(grammar, env, words)
	})
	command, err := kongcompletion.Command(parser,
		kongcompletion.WithPredictor("file", posener.PredictFiles("*")),
		kongcompletion.WithPredictor("backup", ids((*config.Config).BackupIDs)),
		kongcompletion.WithPredictor("module", ids((*config.Config).ModuleIDs)),
		kongcompletion.WithPredictor("drill", ids((*config.Config).DrillIDs)),
		kongcompletion.WithPredictor("remote", ids((*config.Config).RemoteIDs)),
		kongcompletion.WithPredictor("destination", ids(func(c *config.Config) []string {
			return c.DestinationIDs()
		})),
		kongcompletion.WithPredictor("known", known),
	)
	if err != nil {
		panic(err)
	}
	refine(parser.Model.Node, command)
	if sub := parser.Model.DefaultCmd; sub != nil { // its arguments may follow without its name
		command.Args = command.Sub[sub.Name].Args
		maps.Copy(command.GlobalFlags, command.Sub[sub.Name].GlobalFlags)
	}
	completion := posener.New(parser.Model.Name, command)
	var out bytes.Buffer
	completion.Out = &out
	completion.Complete()
	lines := slices.Collect(strings.Lines(out.String()))
	if !ordered {
		slices.Sort(lines)
	}
	fmt.Fprint(env.Stdout, strings.Join(lines, ""))
	parser.Exit(ExitOK)
}

// typed returns the value of a flag, "true" where none follows it.
func typed(words []string, name string) (value string) {
	for i, word := range words {
		if after, ok := strings.CutPrefix(word, name+"="); ok {
			value = after
		} else if word == name {
			if value = "true"; i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
				value = words[i+1]
			}
		}
	}
	return value
}

// known asks the grammar, and waits no longer than it should.
func known(grammar any, env *Env, words []string) []string {
	g, ok := grammar.(Completing)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	found := make(chan []string, 1)
	go func() {
		defer func() {
			if recover() != nil {
				found <- nil // a shell is no place to tell of it
			}
		}()
		quiet := &Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Getenv: env.Getenv, Now: env.Now, Log: slog.New(slog.DiscardHandler)}
		found <- g.Known(ctx, quiet, func(name string) string { return typed(words, name) })
	}()
	select {
	case list := <-found:
		return list
	case <-ctx.Done():
		return nil
	}
}

// maxRepeated is how many arguments of one kind are completed.
const maxRepeated = 100

// refine makes arguments complete in two more cases: after flags of the whole program, and the second and later ones of a list.
func refine(node *kong.Node, command posener.Command) {
	p, ok := command.Args.(*kongcompletion.PositionalPredictor)
	if !ok {
		return
	}
	for _, child := range node.Children {
		sub := command.Sub[child.Name]
		if s, ok := sub.Args.(*kongcompletion.PositionalPredictor); ok {
			s.ArgFlags, s.BoolFlags = append(s.ArgFlags, p.ArgFlags...), append(s.BoolFlags, p.BoolFlags...)
		}
		refine(child, sub)
	}
	n := len(node.Positional)
	if n == 0 || len(p.Predictors) != n || !node.Positional[n-1].IsCumulative() {
		return
	}
	p.Predictors = append(p.Predictors, slices.Repeat(p.Predictors[len(p.Predictors)-1:], maxRepeated)...)
}
