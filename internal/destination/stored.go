package destination

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"sdbackup/internal/config"
)

// stored is a destination with all that belongs to it, secrets too: what add makes, alter changes and export writes.
type stored struct {
	id          string
	name        string // "": the ID
	provider    *provider
	repository  string
	gateway     bool
	maxSize     int64
	keepDeleted time.Duration
	credential  bool // the secrets are, or shall be, credentials

	password    Secret   // of the restic repositories
	remote      *Section // nil: rclone is not needed
	environment string   // text of the environment file; "": there is none
}

// location returns the place without the ID and the protocol that say how it is reached.
func (d *stored) location() string { return locationOf(d.repository) }

func locationOf(repository string) string {
	if rest, ok := strings.CutPrefix(repository, "rclone:"); ok {
		_, folder, _ := strings.Cut(rest, ":")
		return folder
	}
	if rest, ok := strings.CutPrefix(repository, "rest:"); ok {
		return rest
	}
	return strings.TrimPrefix(repository, "local:")
}

// parameters returns what add was told to make this.
func (d *stored) parameters() (map[string]string, Secret) {
	parameters, secret := d.provider.parse(d.remote, d.location())
	if d.provider.name == providerREST {
		if user := getVariable(d.environment, restUsername); user != "" {
			parameters["username"] = user
		}
		secret = Secret(getVariable(d.environment, restPassword))
	}
	return parameters, secret
}

// set makes the repository, the remote and the environment from parameters.
func (d *stored) set(parameters map[string]string, secret Secret) {
	remote, location := d.provider.build(d.id, parameters, secret, d.remote)
	d.remote = remote
	switch d.provider.name {
	case providerLocal:
		d.repository = location
	case providerREST:
		d.repository = "rest:" + location
		d.environment = setVariable(d.environment, restUsername, parameters["username"])
		d.environment = setVariable(d.environment, restPassword, string(secret))
	case providerOther:
	default:
		d.repository = "rclone:" + d.id + ":" + location
	}
}

// identity returns what the UUID is made of. An option of a remote that the provider does not know is no part of it, but for
// a provider that knows none; and where this node keeps a key is none.
func (d *stored) identity() identity {
	parameters, _ := d.parameters()
	for _, f := range d.provider.fields {
		if f.here {
			delete(parameters, f.name)
		}
	}
	i := identity{Provider: d.provider.name, URL: d.location(), Parameters: parameters}
	if d.provider.name == providerRclone && d.remote != nil {
		for _, o := range d.remote.Options {
			if !isSecret(o) && o.Value != "" {
				parameters[o.Key] = o.Value
			}
		}
	}
	return i
}

// loads is the credential that the gateway must have loaded.
func (d *stored) loads() string {
	if d.credential && d.remote != nil && d.gateway {
		return rcloneCredential(d.id)
	}
	return ""
}

func (d *stored) uuid() string { return d.identity().uuid() }

// secrets returns every secret, in each form in which it is stored.
func (d *stored) secrets() []Secret {
	secrets := append([]Secret{d.password}, secretVariables(d.environment)...)
	if d.remote != nil {
		for _, o := range d.remote.Options {
			if !isSecret(o) {
				continue
			}
			secrets = append(secrets, Secret(o.Value))
			if plain, err := reveal(o.Value); err == nil {
				secrets = append(secrets, plain)
			}
		}
	}
	return secrets
}

// judge returns what cannot be written. The rest is judged by internal/config.
func (d *stored) judge() error {
	var errs []error
	if d.password == "" {
		errs = append(errs, usage("password-file", "is missing; want the password of the restic repositories"))
	} else if err := checkLine(string(d.password)); err != nil {
		errs = append(errs, usage("password-file", "the password %v; want it on one line", err))
	} else if strings.TrimSpace(string(d.password)) != string(d.password) {
		errs = append(errs, usage("password-file", "the password begins or ends with a blank, which restic would not read; want another"))
	}
	if err := checkLine(d.name); err != nil {
		errs = append(errs, usage("name", "%v", err))
	}
	if d.keepDeleted > 0 && strings.HasPrefix(d.repository, "rest:") {
		errs = append(errs, usage("keep-deleted", "is kept by the gateway that holds the data; set it there"))
	}
	if d.credential && d.environment != "" {
		errs = append(errs, usage("credential", "an environment file cannot be a credential, and this provider needs one for user and password; leave --credential out"))
	}
	if d.remote != nil {
		if _, err := d.remote.render(); err != nil {
			errs = append(errs, usage("rclone-config", "%v", err))
		}
	}
	return errors.Join(errs...)
}

const (
	// madeBy begins the first line of every file that this package may rewrite. The provider stands behind it.
	madeBy = "# Made by backup-destination, provider "
	// rewritten ends it.
	rewritten = `. Change it with "backup-destination alter": comments in here are lost then.`
)

// madeFor returns the provider of a file's first line; false when it is not one of ours.
func madeFor(text string) (string, bool) {
	line, _, _ := strings.Cut(text, "\n")
	rest, ok := strings.CutPrefix(line, madeBy)
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(rest, ".")
	return name, true
}

// keys are the keys of the TOML that name secrets.
type keys struct{ passwordFile, passwordCredential, rcloneConfig, rcloneCredential, environmentFile string }

// toml writes the table.
func (d *stored) toml(k keys) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s%s\n[destination.%s]\n", madeBy, d.provider.name, rewritten, tomlKey(d.id))
	text := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", key, tomlString(value))
		}
	}
	if d.name != d.id {
		text("name", d.name)
	}
	text("uuid", d.uuid())
	text("repository", d.repository)
	text("password-file", k.passwordFile)
	text("password-credential", k.passwordCredential)
	text("rclone-config", k.rcloneConfig)
	text("rclone-credential", k.rcloneCredential)
	text("environment-file", k.environmentFile)
	if d.gateway != gatewayDefault(d.repository) {
		fmt.Fprintf(&b, "gateway = %t\n", d.gateway)
	}
	if d.maxSize > 0 {
		text("max-size", formatSize(d.maxSize))
	}
	if d.keepDeleted > 0 {
		text("keep-deleted", formatSpan(d.keepDeleted))
	}
	return []byte(b.String())
}

// gatewayDefault is what internal/config takes for granted where no key says otherwise.
func gatewayDefault(repository string) bool { return strings.HasPrefix(repository, "rclone:") }

func tomlKey(id string) string {
	if strings.Contains(id, ".") {
		return `"` + id + `"`
	}
	return id
}

// tomlString writes a basic string of TOML.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// formatSize writes a number of bytes as config.ParseSize reads it.
func formatSize(n int64) string {
	for i, unit := range []string{"P", "T", "G", "M", "K"} {
		if factor := int64(1) << (10 * (5 - i)); n%factor == 0 {
			return strconv.FormatInt(n/factor, 10) + unit
		}
	}
	return strconv.FormatInt(n, 10)
}

// formatSpan writes a time span as config.ParseTimeSpan reads it.
func formatSpan(d time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}, {time.Millisecond, "ms"}, {time.Microsecond, "us"}} {
		if d%unit.size == 0 {
			return strconv.FormatInt(int64(d/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(d/time.Microsecond), 10) + "us"
}

// parseSize reads a flag; "" and "0" mean none.
func parseSize(flag, text string) (int64, error) {
	if text == "" || text == "0" {
		return 0, nil
	}
	n, err := config.ParseSize(text)
	if err != nil || n <= 0 {
		return 0, usage(flag, `%q is no size; want a number of bytes, say "50G", or 0 for none`, text)
	}
	return n, nil
}

// parseSpan likewise.
func parseSpan(flag, text string) (time.Duration, error) {
	if text == "" || text == "0" {
		return 0, nil
	}
	d, err := config.ParseTimeSpan(text)
	if err != nil || d <= 0 || d == math.MaxInt64 || strings.TrimSpace(text) == "infinity" {
		return 0, usage(flag, `%q is no time span; want one that ends, say "30d", or 0 for none`, text)
	}
	return d, nil
}

// merge lays changes over parameters; an empty one takes a parameter away.
func merge(parameters, changes map[string]string) map[string]string {
	merged := maps.Clone(parameters)
	for name, value := range changes {
		if value == "" {
			delete(merged, name)
		} else {
			merged[name] = value
		}
	}
	return merged
}

// publicOptions are the options of the remote that are no secrets, sorted.
func (d *stored) publicOptions() []Option {
	if d.remote == nil {
		return nil
	}
	var options []Option
	for _, o := range d.remote.Options {
		if !isSecret(o) {
			options = append(options, o)
		}
	}
	slices.SortFunc(options, func(a, b Option) int { return strings.Compare(a.Key, b.Key) })
	return options
}
