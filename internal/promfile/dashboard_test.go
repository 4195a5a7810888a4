package promfile

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what of a dashboard of Grafana's is looked at here; its manual, "Dashboard JSON model".
type dashboard struct {
	Title         string
	UID           string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct {
			Expr       string
			RefID      string `json:"refId"`
			Datasource struct{ Type, UID string }
		}
	}
}

// gatewayNames are the metrics of the gateway, by its source.
func gatewayNames(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join("..", "gateway", "metrics.go"))
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`backup_gateway_[a-z_]+`).FindAllString(string(source), -1)
}

// Grafana would take the dashboard, and every question in it is one that Prometheus understands, about metrics that there are.
func TestDashboard(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "examples", "grafana", "sdbackup.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || len(d.UID) > 40 || d.SchemaVersion < 36 || strings.Contains(string(data), `"__inputs"`) {
		t.Errorf("title %q, uid %q, schema %d: Grafana's provisioning wants all of them, and no inputs", d.Title, d.UID, d.SchemaVersion)
	}
	known := slices.Clone(gatewayNames(t))
	for _, m := range slices.Concat(backupMetrics, checkMetrics) {
		known = append(known, m.name)
	}
	for _, m := range slices.Concat(moduleMetrics, moduleCheckMetrics) {
		known = append(known, m.name)
	}
	variables := []string{"__rate_interval"}
	var questions []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		if query, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			questions = append(questions, query[:strings.LastIndexByte(query, ',')])
		} else if v.Type == "query" {
			t.Errorf("variable %s asks %q; want label_values", v.Name, v.Definition)
		}
	}
	types := []string{"row", "stat", "table", "state-timeline", "timeseries"}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" || !slices.Contains(types, p.Type) || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("panel %d %q of type %q at %v", p.ID, p.Title, p.Type, p.GridPos)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" {
					t.Fatalf("panels %q and %q lie on each other", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if (len(p.Targets) == 0) != (p.Type == "row") {
			t.Errorf("panel %q asks nothing, or is a row and does", p.Title)
		}
		for _, q := range p.Targets {
			if q.Datasource.UID != "${datasource}" || q.Datasource.Type != "prometheus" {
				t.Errorf("panel %q asks %v; want the variable", p.Title, q.Datasource)
			}
			questions = append(questions, q.Expr)
		}
	}
	for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(string(data), -1) {
		if !slices.Contains(variables, m[1]) && m[1] != "__all" {
			t.Errorf("there is no variable %s", m[1])
		}
	}
	for _, q := range questions {
		names := regexp.MustCompile(`\b(node_backup|backup_gateway)_\w+`).FindAllString(q, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for no metric of ours", q)
		}
		for _, name := range names {
			if !slices.Contains(known, name) {
				t.Errorf("the dashboard asks for %s, which is not written", name)
			}
		}
	}
	parses(t, questions)
}

// parses has promtool read the questions, as rules: that is how it reads PromQL from a file.
func parses(t *testing.T, questions []string) {
	t.Helper()
	var rules []map[string]string
	for _, q := range questions {
		rules = append(rules, map[string]string{"record": "question", "expr": strings.ReplaceAll(q, "$__rate_interval", "5m")})
	}
	data, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yml") // JSON is YAML
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program(t, "promtool"), "check", "rules", "--lint=none", path).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
