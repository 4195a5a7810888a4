package destination

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// odd are values that a careless writer or reader of rclone.conf gets wrong.
var odd = []string{
	"plain", " lead", "trail ", "a=b:c", "# hash", "; semi", "a # b", `"quoted"`, "`back`", "`open", "a`b", `"""tri"""`, `"""open`, "[x]",
	"a\tb", "\\", "ü", "{\"json\":\"x\"}", "-", "%", "%s", "%(", "``", "`", `"""`, `""`, "\u00a0nbsp\u00a0", "RCLONE_ENCRYPT_V0:",
}

// sameAsRclone compares sections with what the real rclone reads.
func sameAsRclone(t testing.TB, path string, sections []Section) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "rclone", "--config", path, "config", "dump").Output()
	if err != nil {
		t.Fatalf("rclone config dump: %v", err)
	}
	var got map[string]map[string]string
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]string{}
	for _, s := range sections {
		want[s.Name] = map[string]string{}
		for _, o := range s.Options {
			want[s.Name][o.Key] = o.Value
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("rclone reads %v; want %v", got, want)
	}
}

func TestOddValues(t *testing.T) {
	s := Section{Name: "a.b"}
	for i, v := range odd {
		s.Set("k"+string(rune('a'+i/26))+string(rune('a'+i%26)), v)
	}
	text, err := s.render()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseRcloneConfig(text)
	if err != nil || !reflect.DeepEqual(got, []Section{s}) {
		t.Errorf("of\n%s\nparse = %v, %v; want %v", text, got, err, s)
	}
	needRclone(t)
	path := filepath.Join(t.TempDir(), "rclone.conf")
	write(t, path, text)
	sameAsRclone(t, path, []Section{s})
}

// TestParseIsRclones reads texts that people write as rclone does.
func TestParseIsRclones(t *testing.T) {
	for name, text := range map[string]string{
		"empty":      "",
		"comments":   "# a\n; b\n[x]\n# c\ntype = local # no comment\n",
		"separators": "[x]\ntype:local\nurl=http://h:80/?a=b\n",
		"quotes":     "[x]\ntype = `local`\na = \"\"\"b\"\"\"\n\"k1\" = v\n`k2` = v2\n\"\"\"k3\"\"\" = v3\n",
		"twice":      "[x]\ntype = a\n[y]\ntype = b\n[x]\ntype = c\nk = 1\nk = 2\n",
		"blanks":     "\ufeff  [ x ]  \r\n  type  =  local  \r\n\r\n",
		"empty keys": "[x]\ntype = local\npass =\n",
		"no end":     "[x]\ntype = local",
	} {
		t.Run(name, func(t *testing.T) {
			sections, err := parseRcloneConfig(text)
			if err != nil {
				t.Fatal(err)
			}
			needRclone(t)
			path := filepath.Join(t.TempDir(), "rclone.conf")
			write(t, path, text)
			sameAsRclone(t, path, sections)
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"type = local":                          "line 1 stands before the first [section]",
		"[x]\n" + marker:                        "line 2 is neither",
		"[x]\n= " + marker:                      "line 2 is neither",
		"[x]\n\"a = " + marker:                  "line 2 is neither",
		"[x]\na b = " + marker:                  "line 2 has a key",
		"[x]\n- = " + marker:                    "line 2 has a key",
		"[x]\na = `" + marker:                   "line 2 has a quote",
		"[x]\na = \"\"\"" + marker + "x":        "line 2 has a quote",
		"[x]\na = %(b)s" + marker:               "line 2 holds %(...)s",
		"[x]\na = " + marker + "\x00":           "line 2 holds a line break or another control character",
		"[x]\na = \xff" + marker:                "line 2 is not UTF-8",
		"[]\na = b":                             "line 1 has a section without a name",
		"RCLONE_ENCRYPT_V0:\n" + marker:         "is encrypted",
		"# Encrypted\nRCLONE_ENCRYPT_V0:\nabcd": "rclone config show",
	} {
		_, err := parseRcloneConfig(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), marker) {
			t.Errorf("parse(%q) = %v; want %q, and nothing of the line", text, err, want)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, s := range map[string]Section{
		"line break in a value": {"x", []Option{{"a", "b\n[y]\ntype = local"}}},
		"carriage return":       {"x", []Option{{"a", "b\rc"}}},
		"line separator":        {"x", []Option{{"a", "b\u2028c"}}},
		"line break in a key":   {"x", []Option{{"a\nb", "c"}}},
		"key as a section":      {"x", []Option{{"[y]", "c"}}},
		"key as a comment":      {"x", []Option{{"#a", "c"}}},
		"name with a bracket":   {"x]\n[y", nil},
		"no name":               {"", nil},
		"name of blanks":        {" x", nil},
	} {
		if text, err := s.render(); err == nil {
			t.Errorf("%s: rendered as %q", name, text)
		}
	}
}

func TestPickRemote(t *testing.T) {
	const one, two = "[a]\ntype = s3\nsecret_access_key = x\n", "[a]\ntype = s3\n[b]\ntype = b2\n"
	types := []string{"s3", "b2", "alias", "crypt", "union"}
	for name, c := range map[string]struct {
		text, remote, want, err string
	}{
		"one":                 {one, "", "s3", ""},
		"one by name":         {one, "a", "s3", ""},
		"of two":              {two, "b", "b2", ""},
		"base64":              {base64.StdEncoding.EncodeToString([]byte(one)), "", "s3", ""},
		"base64 in lines":     {strings.Join(strings.SplitAfter(base64.StdEncoding.EncodeToString([]byte(two)), "I"), "\n"), "a", "s3", ""},
		"two":                 {two, "", "", "has the remotes a, b; want one"},
		"another":             {two, "c", "", `has no remote "c"; it has a, b`},
		"none":                {"# nothing\n", "", "", "has no [section]"},
		"no type":             {"[a]\nhost = h\n", "", "", "has no type for remote a"},
		"unknown type":        {"[a]\ntype = s4\n", "", "", `has type "s4", which`},
		"too long":            {one + strings.Repeat("#\n", maxRcloneConfig/2), "", "", "at most 100000"},
		"just not too long":   {one + strings.Repeat("#", maxRcloneConfig-len(one)), "", "s3", ""},
		"alias of a remote":   {two + "[c]\ntype = alias\nremote = a:x\n", "c", "", "builds on another, a: which"},
		"alias of a folder":   {"[c]\ntype = alias\nremote = /srv\n", "", "alias", ""},
		"alias of a backend":  {"[c]\ntype = alias\nremote = :s3,provider=AWS:b\n", "", "alias", ""},
		"union":               {"[c]\ntype = union\nupstreams = /a b:c\n", "", "", "builds on another, b: which"},
		"crypt":               {"[c]\ntype = crypt\nremote = b:c\n", "", "", "builds on another"},
		"sections in a value": {"[a]\ntype = s3\nx = `[b]`\n", "", "s3", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pickRemote(c.text, c.remote, "new", types)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("pickRemote = %v; want an error with %q", err, c.err)
				}
				return
			}
			if err != nil || got.Name != "new" || got.Get("type") != c.want {
				t.Errorf("pickRemote = %v, %v; want [new] of type %s", got, err, c.want)
			}
		})
	}
	if _, err := pickRemote("[a]\ntype = anything\n", "", "new", nil); err != nil {
		t.Errorf("without rclone to ask, a type is judged: %v", err)
	}
}

func TestRcloneTypes(t *testing.T) {
	needRclone(t)
	types := rcloneTypes(t.Context())
	known := map[string]bool{}
	for _, name := range types {
		known[name] = true
	}
	for _, p := range providers {
		if p.kind != "" && !known[p.kind] {
			t.Errorf("rclone does not know type %s of provider %s", p.kind, p.name)
		}
	}
	if known["nonsense"] || !known["google cloud storage"] {
		t.Errorf("types are %v", types)
	}
}

func TestIsSecret(t *testing.T) {
	for o, want := range map[Option]bool{
		{"secret_access_key", "x"}: true, {"pass", "x"}: true, {"key", "x"}: true, {"token", "x"}: true, {"key_file_pass", "x"}: true,
		{"client_secret", "x"}: true, {"service_account_credentials", "x"}: true, {"access_grant", "x"}: true, {"sas_url", "x"}: true,
		{"key_pem", "x"}: true, {"password2", "x"}: true, {"PASS", "x"}: true, {"url", "https://u:p@h/"}: true,
		{"remote", ":s3,secret_access_key=x:b"}: true, {"url", "https://h/?api_key=x"}: true, {"headers", "Cookie,x"}: true,
		{"access_key_id", "x"}: false, {"key_file", "/x"}: false, {"known_hosts_file", "/x"}: false, {"user", "x"}: false, {"type", "s3"}: false,
		{"endpoint", "https://h:443/"}: false, {"account", "x"}: false, {"env_auth", "false"}: false, {"client_id", "x"}: false,
	} {
		if got := isSecret(o); got != want {
			t.Errorf("isSecret(%v) = %t; want %t", o, got, want)
		}
	}
}

// FuzzRcloneConfig: what can be read can be written, and reads the same; one remote stays one whatever its values hold.
func FuzzRcloneConfig(f *testing.F) {
	for _, v := range odd {
		f.Add("[a]\ntype = s3\n"+v+" = "+v+"\n", v)
	}
	f.Add("[a]\ntype = s3\n", "x\n[b]\ntype = local")
	f.Fuzz(func(t *testing.T, text, value string) {
		sections, err := parseRcloneConfig(text)
		if err == nil {
			for _, s := range sections {
				s.Name = "fuzz"
				check(t, s)
			}
		}
		s := Section{Name: "fuzz", Options: []Option{{"type", "local"}, {"k", value}}}
		if text, err := s.render(); err == nil {
			check(t, s)
			if strings.Count(text, "\n") != 3 {
				t.Errorf("%q makes more than its line of\n%s", value, text)
			}
		} else if !strings.ContainsAny(value, "\r\n\x00%") && checkLine(strings.ReplaceAll(value, "\t", "")) == nil {
			t.Errorf("%q is refused: %v", value, err)
		}
	})
}

func check(t *testing.T, s Section) {
	t.Helper()
	text, err := s.render()
	if err != nil {
		t.Fatalf("%v was read and cannot be written: %v", s, err)
	}
	again, err := parseRcloneConfig(text)
	if err != nil || len(again) != 1 || again[0].Name != s.Name || !maps.Equal(options(again[0]), options(s)) {
		t.Fatalf("%v is written as\n%s\nand read as %v, %v", s, text, again, err)
	}
}

func options(s Section) map[string]string {
	m := map[string]string{}
	for _, o := range s.Options {
		m[o.Key] = o.Value
	}
	return m
}
