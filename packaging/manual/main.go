// Manual makes the manual page of the configuration, sdbackup.toml(5), of docs/configuration.md. The pages of the programs are made by
// themselves, with --man.
//
//	manual VERSION PROGRAM... <docs/configuration.md >sdbackup.toml.5
//
// SOURCE_DATE_EPOCH in the environment is the time on the page.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"sdbackup/internal/man"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: manual VERSION PROGRAM... <docs/configuration.md")
	}
	changed := time.Now()
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		changed = time.Unix(seconds, 0)
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	page, err := configuration(string(text), args[0], changed, args[1:])
	if err != nil {
		return fmt.Errorf("docs/configuration.md: %w", err)
	}
	_, err = io.WriteString(os.Stdout, page)
	return err
}

// configuration makes the page. Its description is what the text begins with.
func configuration(text, version string, changed time.Time, programs []string) (string, error) {
	p := man.New("sdbackup.toml", 5, changed, version)
	p.Name("sdbackup.toml", "configuration of sdbackup: destinations, modules and backups")
	p.Section("SYNOPSIS")
	p.Lines(man.Italic("/etc/sdbackup/*.toml"), man.Italic("/run/sdbackup/*.toml"), man.Italic("/usr/lib/sdbackup/*.toml"), man.Italic("~/.config/sdbackup/*.toml"))
	p.Section("DESCRIPTION")
	if err := p.Markdown(text); err != nil {
		return "", err
	}
	p.Section("SEE ALSO")
	var pages []man.Text
	for _, name := range programs {
		pages = append(pages, man.Bold(name), "(1), ")
	}
	p.Paragraph(man.Join(append(pages, man.Bold("systemd.time"), "(7), ", man.Bold("systemd.resource-control"), "(5)")...))
	p.Paragraph(man.Join("The guides in ", man.Italic("/usr/share/doc/sdbackup"), "."))
	return strings.TrimSuffix(p.String(), "\n") + "\n", nil
}
