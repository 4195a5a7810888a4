package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"sdbackup/internal/config"
	"sdbackup/internal/man"
)

// manFlag prints the program's manual page. It is made of the grammar, as the help is, so it tells of nothing else.
type manFlag bool

// BeforeReset implements a hook of kong.
func (manFlag) BeforeReset(app *kong.Kong, env *Env) error {
	changed := env.Now()
	if epoch, err := strconv.ParseInt(env.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil { // https://reproducible-builds.org/specs/source-date-epoch/
		changed = time.Unix(epoch, 0)
	}
	if _, err := io.WriteString(app.Stdout, manual(app.Model, changed)); err != nil {
		return err
	}
	app.Exit(ExitOK)
	return nil
}

// exitCode begins what a list of exit codes says of one of them.
var exitCode = regexp.MustCompile(`(?:^|, |; )(\d+) `)

// manual is the page of a program.
func manual(app *kong.Application, changed time.Time) string {
	p := man.New(app.Name, 1, changed, Version())
	what, codes, _ := strings.Cut(app.Help, "\n\nExit codes: ")
	p.Name(app.Name, lower(strings.TrimSuffix(what, ".")))

	commands := app.Leaves(true)
	p.Section("SYNOPSIS")
	var synopsis []man.Text
	for _, c := range commands {
		synopsis = append(synopsis, usage(app, c))
	}
	if len(synopsis) == 0 {
		synopsis = append(synopsis, usage(app, app.Node))
	}
	p.Lines(synopsis...)

	p.Section("DESCRIPTION")
	p.Paragraph(man.Plain(what))
	detail(p, app.Detail)
	if len(app.Positional) > 0 {
		p.Section("ARGUMENTS")
		arguments(p, app.Node)
	}
	p.Section("OPTIONS")
	flags(p, app.Flags)
	if len(commands) > 0 {
		p.Section("COMMANDS")
	}
	for _, c := range commands {
		p.Subsection(strings.TrimPrefix(c.FullPath(), app.Name+" "))
		if app.DefaultCmd == c && !strings.Contains(c.Help, "can be left out") {
			p.Paragraph(man.Plain("What is done where no command is named."))
		}
		p.Paragraph(man.Plain(c.Help))
		arguments(p, c)
		for n := c; n != nil && n.Type == kong.CommandNode; n = n.Parent {
			flags(p, n.Flags)
		}
		detail(p, c.Detail)
	}

	p.Section("EXIT STATUS")
	codes = strings.TrimSuffix(codes, ".")
	found := exitCode.FindAllStringSubmatchIndex(codes, -1)
	for i, at := range found {
		end := len(codes)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		p.Item(man.Bold(codes[at[2]:at[3]]), man.Plain(codes[at[1]:end]))
	}
	if environment := variables(app); len(environment) > 0 {
		p.Section("ENVIRONMENT")
		for _, f := range environment {
			p.Item(man.Bold(strings.Join(f.Envs, ", ")), man.Join(man.Plain("The same as "), man.Bold("--"+f.Name), "."))
		}
	}
	if configured(app) {
		p.Section("FILES")
		paths := config.SystemPaths()
		for _, layer := range slices.Backward(paths.Config) {
			p.Item(man.Italic(filepath.Join(layer, "*.toml")), man.Join("The configuration, ", man.Bold("sdbackup.toml"), "(5)."))
		}
		p.Item(man.Italic(paths.State), "Records of the runs.")
	}
	p.Section("SEE ALSO")
	p.Paragraph(man.Join(man.Bold("sdbackup.toml"), "(5), ", man.Bold("restic"), "(1)"))
	return p.String()
}

// usage is how a command is called.
func usage(app *kong.Application, c *kong.Node) man.Text {
	text := man.Bold(app.Name)
	if c.Type == kong.CommandNode {
		text = man.Join(text, " [", man.Italic("FLAG"), "]... ", man.Bold(strings.TrimPrefix(c.FullPath(), app.Name+" ")))
	}
	for _, f := range c.Flags {
		if f.Required && !f.Hidden {
			text = man.Join(text, " ", man.Bold("--"+f.Name+"="), man.Italic(value(f)))
		}
	}
	text = man.Join(text, " [", man.Italic("FLAG"), "]...")
	for _, a := range c.Positional {
		if a.Tag != nil && a.Tag.Hidden {
			continue
		}
		name := man.Italic(argument(a))
		if a.IsCumulative() {
			name = man.Join(name, "...")
		}
		if !a.Required {
			name = man.Join("[", name, "]")
		}
		text = man.Join(text, " ", name)
	}
	return text
}

func argument(a *kong.Positional) string { return strings.ToUpper(a.Name) }

func arguments(p *man.Page, n *kong.Node) {
	for _, a := range n.Positional {
		if a.Tag != nil && a.Tag.Hidden {
			continue
		}
		p.Item(man.Italic(argument(a)), man.Plain(withDefault(a.Help, a)))
	}
}

func flags(p *man.Page, list []*kong.Flag) {
	for _, f := range list {
		if f.Hidden {
			continue
		}
		var tag man.Text
		if f.Short != 0 {
			tag = man.Join(man.Bold("-"+string(f.Short)), ", ")
		}
		name := f.Name
		if f.Tag != nil && f.Tag.Negatable != "" {
			name = "[no-]" + name
		}
		tag = man.Join(tag, man.Bold("--"+name))
		if !f.IsBool() && !f.IsCounter() {
			tag = man.Join(tag, man.Bold("="), man.Italic(value(f)))
		}
		p.Item(tag, man.Plain(withDefault(f.Help, f.Value)))
	}
}

// value is what stands for the value of a flag.
func value(f *kong.Flag) string {
	switch {
	case f.PlaceHolder != "":
		return f.PlaceHolder
	case f.Enum != "":
		return strings.ReplaceAll(f.Enum, ",", "|")
	}
	return strings.ToUpper(f.Name)
}

// withDefault is a help text that tells the default, too.
func withDefault(help string, v *kong.Value) string {
	if !v.HasDefault || v.Default == "" || strings.Contains(strings.ToLower(help), "default") {
		return help
	}
	return help + " Default: " + v.Default + "."
}

// detail writes the longer help of a command: its paragraphs, and its examples, which are indented or behind "Example:".
func detail(p *man.Page, text string) {
	for _, paragraph := range strings.Split(text, "\n\n") {
		if example, ok := strings.CutPrefix(paragraph, "Example: "); ok {
			p.Paragraph("Example:")
			p.Code(strings.Split(example, "\n")...)
			continue
		}
		lines := strings.Split(strings.Trim(paragraph, "\n"), "\n")
		switch {
		case strings.TrimSpace(paragraph) == "":
		case !slices.ContainsFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "\t") }):
			for i := range lines {
				lines[i] = strings.TrimSpace(lines[i])
			}
			p.Code(lines...)
		default:
			p.Paragraph(man.Plain(paragraph))
		}
	}
}

// variables are the flags that can be given in the environment.
func variables(app *kong.Application) []*kong.Flag {
	var found []*kong.Flag
	seen := map[string]bool{}
	for _, n := range append([]*kong.Node{app.Node}, app.Leaves(true)...) {
		for _, f := range n.Flags {
			if key := fmt.Sprint(f.Envs); len(f.Envs) > 0 && !f.Hidden && !seen[key] {
				seen[key] = true
				found = append(found, f)
			}
		}
	}
	return found
}

// configured tells whether the program reads the configuration.
func configured(app *kong.Application) bool {
	return slices.ContainsFunc(variables(app), func(f *kong.Flag) bool { return f.Name == "config" })
}

// lower makes a sentence the phrase that a page's name is followed by.
func lower(s string) string {
	r, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[size:]
}
