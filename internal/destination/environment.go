package destination

import (
	"strings"

	"sdbackup/internal/module"
)

// Lines are read one by one and not by module.ReadEnvironment: a line that is no variable keeps nobody from seeing and mending the others, and
// what somebody has put behind a # is a secret, too.

// What restic calls the user and the password for a server of its REST protocol.
const (
	restUsername = "RESTIC_REST_USERNAME"
	restPassword = "RESTIC_REST_PASSWORD"
)

// getVariable finds NAME=value in the text of an environment file; the last one counts.
func getVariable(text, name string) string {
	value := ""
	for line := range strings.Lines(text) {
		if n, v, ok := module.Variable(line); ok && n == name {
			value = v
		}
	}
	return value
}

// setVariable writes NAME=value into the text in place of what it says of that name; an empty value takes it out.
func setVariable(text, name, value string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if n, _, _ := module.Variable(line); n != name {
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
		if name, value, ok := module.Variable(line); ok && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, ";") {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// secretVariables returns the values of an environment file whose names sound like a secret.
func secretVariables(text string) []Secret {
	var secrets []Secret
	for line := range strings.Lines(text) {
		if name, value, ok := module.Variable(line); ok && isSecret(Option{name, value}) {
			secrets = append(secrets, Secret(value))
		}
	}
	return secrets
}
