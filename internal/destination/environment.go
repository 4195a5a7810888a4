package destination

import (
	"strings"
)

// What restic calls the user and the password for a server of its REST protocol.
const (
	restUsername = "RESTIC_REST_USERNAME"
	restPassword = "RESTIC_REST_PASSWORD"
)

// getVariable finds NAME=value in the text of an environment file, as internal/module reads it.
func getVariable(text, name string) string {
	value := ""
	for line := range strings.Lines(text) {
		if n, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && n == name {
			if len(v) >= 2 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
				v = v[1 : len(v)-1]
			}
			value = v
		}
	}
	return value
}

// setVariable writes NAME=value into the text in place of what it says of that name; an empty value takes it out.
func setVariable(text, name, value string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if n, _, _ := strings.Cut(strings.TrimSpace(line), "="); n != name {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	if value == "" {
		return b.String()
	}
	if value != strings.TrimSpace(value) || strings.ContainsAny(value[:1], `"'`) {
		value = `"` + value + `"` // exactly one pair is taken off
	}
	b.WriteString(name + "=" + value + "\n")
	return b.String()
}

// variables returns the lines NAME=value of an environment file, as a process takes them.
func variables(text string) []string {
	var env []string
	for line := range strings.Lines(text) {
		name, _, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, ";") {
			env = append(env, name+"="+getVariable(text, name))
		}
	}
	return env
}

// secretVariables returns the values of an environment file whose names sound like a secret.
func secretVariables(text string) []Secret {
	var secrets []Secret
	for line := range strings.Lines(text) {
		name, _, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		if value := getVariable(text, name); isSecret(Option{name, value}) {
			secrets = append(secrets, Secret(value))
		}
	}
	return secrets
}
