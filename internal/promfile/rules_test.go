package promfile

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var examples = filepath.Join("..", "..", "examples", "prometheus")

func TestAlertRules(t *testing.T) {
	promtool := program(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", "sdbackup.rules.yml"},
		{"test", "rules", "sdbackup.rules.test.yml", "sdbackup.drills.test.yml"},
	} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = examples
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Every alert is tested, tells what it is about, and asks for metrics that there are.
func TestAlertRulesAreComplete(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join(examples, "sdbackup.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var tests []byte
	for _, name := range []string{"sdbackup.rules.test.yml", "sdbackup.drills.test.yml"} {
		data, err := os.ReadFile(filepath.Join(examples, name))
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, data...)
	}
	known := map[string]bool{}
	for _, m := range slices.Concat(backupMetrics, checkMetrics) {
		known[m.name] = true
	}
	for _, m := range slices.Concat(moduleMetrics, moduleCheckMetrics) {
		known[m.name] = true
	}
	for _, m := range moduleDrillMetrics {
		known[m.name] = true
	}
	for _, name := range regexp.MustCompile(`\bnode_backup_\w+`).FindAllString(string(rules), -1) {
		if !known[name] && name != "node_backup_stale_after_seconds" { // a recording rule
			t.Errorf("the rules ask for %s, which is not written", name)
		}
	}
	alerts := strings.Split(string(rules), "- alert: ")[1:]
	if len(alerts) == 0 {
		t.Fatal("no alerts")
	}
	for _, alert := range alerts {
		name, body, _ := strings.Cut(alert, "\n")
		for _, want := range []string{"severity: ", "summary: ", "description: "} {
			if !strings.Contains(body, want) {
				t.Errorf("%s has no %s", name, want)
			}
		}
		tested := regexp.MustCompile(`alertname: ` + name + `\n\s+exp_alerts:`)
		if !tested.Match(tests) {
			t.Errorf("no test in which %s alerts", name)
		}
	}
}
