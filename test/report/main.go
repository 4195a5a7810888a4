// Report reads what go test -json writes, and prints what a person wants to know of it: a line for each package, everything that a
// failed test wrote, and at the end how many passed and failed.
//
//	go test -json ./... | report NAME
//
// It exits with 1 when a test failed or nothing was run; where CI=true also when a test was skipped, for CI is where everything is there
// that a test may need.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is a line of go test -json; see go doc test2json, and go help buildjson for those of the build.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// report is what has been read so far.
type report struct {
	out                     io.Writer
	output                  map[string][]string // of tests and packages that are not over, by package and test
	ran                     map[string]int      // tests of packages that are not over
	passed, failed, skipped int
	broken                  bool // something failed that is no test: a build, a panic
}

func main() {
	name := "tests"
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	r := &report{out: os.Stdout, output: map[string][]string{}, ran: map[string]int{}}
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %d passed, %d failed, %d skipped\n", name, r.passed, r.failed, r.skipped)
	if !r.good(os.Getenv("CI") == "true") {
		os.Exit(1)
	}
}

func (r *report) good(ci bool) bool {
	return r.failed == 0 && !r.broken && r.passed > 0 && (r.skipped == 0 || !ci)
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(r.out, "%s", line) // of a go command that failed before it came to testing
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		r.output[key] = append(r.output[key], e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.broken = true
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnd(e, r.output[key])
		} else {
			r.testEnd(e, r.output[key])
		}
		delete(r.output, key)
	}
}

func (r *report) testEnd(e event, output []string) {
	r.ran[e.Package]++
	switch e.Action {
	case "pass":
		r.passed++
		return
	case "skip":
		r.skipped++
	case "fail":
		r.failed++
	}
	for _, line := range output {
		if !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(r.out, line)
		}
	}
}

func (r *report) packageEnd(e event, output []string) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %-34s %3d tests in %.1f s\n", e.Package, r.ran[e.Package], e.Elapsed)
	case "fail":
		r.broken = true // perhaps without a failed test: a panic, an exit, a time-out
		for _, line := range output {
			fmt.Fprint(r.out, line)
		}
		for key, lines := range r.output { // tests that a panic left unfinished
			if pkg, test, _ := strings.Cut(key, "\x00"); pkg == e.Package && test != "" {
				fmt.Fprint(r.out, strings.Join(lines, ""))
				delete(r.output, key)
			}
		}
		fmt.Fprintf(r.out, "FAIL  %-34s in %.1f s\n", e.Package, e.Elapsed)
	}
	delete(r.ran, e.Package)
}
