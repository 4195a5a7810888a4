package module

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"sdbackup/internal/config"
)

// Names of a module's credentials in $CREDENTIALS_DIRECTORY, systemd.exec(5).
const (
	PasswordCredential    = "restic-password"
	EnvironmentCredential = "restic-environment"
	RepositoryCredential  = "restic-repository"
	CACertCredential      = "restic-cacert"
)

// Secrets are where the secrets of a destination are, as root can read them.
type Secrets struct {
	Password    Secret
	Environment Secret // with an empty path: none
	Repository  Secret // where the repository is, with a run token of the gateway; with an empty path: the plan says it
	CACert      Secret // certificates that vouch for the gateway, where only this process can read them
}

// Secret is a file with a secret.
type Secret struct {
	Path      string
	Encrypted bool // by systemd-creds(1): only the service manager can read it
}

// FindSecrets finds the secrets of a destination: files, or credentials of this process or of the system. Those of the storage behind the
// gateway are for the gateway alone.
func FindSecrets(d *config.Destination, getenv func(string) string) (Secrets, error) {
	s := Secrets{Password: Secret{Path: d.PasswordFile}}
	if !d.Gateway {
		s.Environment.Path = d.EnvironmentFile
	}
	if d.PasswordCredential != "" {
		var err error
		if s.Password, err = FindCredential(d.PasswordCredential, getenv); err != nil {
			return s, fmt.Errorf("destination %s: %w", d.ID, err)
		}
	}
	for _, path := range []string{d.PasswordFile, s.Environment.Path} {
		if path == "" {
			continue
		}
		if err := config.CheckSecretFile(path); err != nil {
			return s, fmt.Errorf("destination %s: %w", d.ID, err)
		}
	}
	if config.EmptySecretFile(d.PasswordFile) {
		return s, fmt.Errorf("destination %s: password-file %s is empty", d.ID, d.PasswordFile)
	}
	return s, nil
}

// FindCredential looks where systemd does, systemd.exec(5), LoadCredential=; and first among those of this service.
func FindCredential(name string, getenv func(string) string) (Secret, error) {
	if own := getenv("CREDENTIALS_DIRECTORY"); own != "" {
		if path := filepath.Join(own, name); exists(path) {
			return Secret{Path: path}, nil
		}
	}
	for _, store := range []string{"/etc", "/run", "/usr/lib"} {
		if path := filepath.Join(store, "credstore", name); exists(path) {
			return Secret{Path: path}, nil
		}
		if path := filepath.Join(store, "credstore.encrypted", name); exists(path) {
			return Secret{Path: path, Encrypted: true}, nil
		}
	}
	return Secret{}, fmt.Errorf("there is no credential %s: neither of this service nor in /etc/credstore", name)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// ReadEnvironment reads an environment file with secrets.
func ReadEnvironment(path string) ([]string, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	return environment(string(data))
}

// Masks returns what must never be told of secrets: the password, the token in a repository's address, and values of the environment.
func Masks(password, repository string, environment []string) []string {
	masks := []string{strings.TrimSpace(password)}
	if u, err := url.Parse(strings.TrimPrefix(strings.TrimSpace(repository), "rest:")); err == nil && u.User != nil {
		if token, ok := u.User.Password(); ok {
			masks = append(masks, token)
		}
	}
	for _, line := range environment {
		if _, value, _ := strings.Cut(line, "="); len(value) >= 6 { // shorter ones are words, not secrets
			masks = append(masks, value)
		}
	}
	return masks
}

// Variable splits a line NAME=value of an environment file, without blanks around it and quotes around the value. It does not judge the name.
func Variable(line string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(strings.TrimSpace(line), "=")
	if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
		value = value[1 : len(value)-1]
	}
	return name, value, ok
}

// environment reads the lines NAME=value of an environment file, systemd.exec(5), EnvironmentFile=, without its continuations.
func environment(data string) ([]string, error) {
	var env []string
	n := 0
	for line := range strings.Lines(data) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		name, value, ok := Variable(line)
		if !ok || name == "" || strings.ContainsAny(name, " \t\"'") || strings.ContainsRune(line, 0) {
			return nil, fmt.Errorf("line %d of the environment file is not NAME=value", n) // not the line: it may be a secret
		}
		env = append(env, name+"="+value)
	}
	return env, nil
}
