package destination

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sdbackup/internal/config"
)

// Providers that are not rclone's.
const (
	providerLocal  = "local"
	providerREST   = "rest"
	providerRclone = "rclone" // any remote that rclone knows
	providerOther  = "other"  // any repository of restic's, taken over from somebody's own configuration
)

// provider is a kind of destination: what it wants to be told, and which options of rclone that becomes.
type provider struct {
	name     string
	kind     string // rclone's type; "": rclone is not needed
	fields   []field
	constant []Option // options that are always so
	top      string   // parameter that is the first folder: a bucket, say; "": there is none
	rooted   bool     // a path that begins with / is another one than that without
	secret   string   // what the secret is called; "": there is none
	needed   bool     // whether there must be one
	store    func(remote *Section, secret Secret)
	load     func(remote *Section) Secret
	check    func(parameters map[string]string, secret Secret) error
	derive   func(parameters map[string]string, remote *Section)
}

// field is a parameter: a flag of the command.
type field struct {
	name     string
	option   string // of rclone; "": a part of the repository
	required string // what to give, where it must be given
	check    func(value string) error
	here     bool // names a file of this node, so it is no part of what the place is
}

// plainSecret keeps the secret in an option as it is, obscuredSecret as rclone obscures passwords.
func plainSecret(option string) (func(*Section, Secret), func(*Section) Secret) {
	return func(remote *Section, s Secret) { remote.Set(option, string(s)) },
		func(remote *Section) Secret { return Secret(remote.Get(option)) }
}

func obscuredSecret(option string) (func(*Section, Secret), func(*Section) Secret) {
	return func(remote *Section, s Secret) {
			if old, err := reveal(remote.Get(option)); err == nil && old == s && s != "" {
				return // obscured again it would look different
			}
			if s == "" {
				remote.Set(option, "")
				return
			}
			remote.Set(option, obscure(s))
		}, func(remote *Section) Secret {
			s, err := reveal(remote.Get(option))
			if err != nil {
				return ""
			}
			return s
		}
}

var providers = makeProviders()

func makeProviders() []*provider {
	local := &provider{name: providerLocal, fields: []field{{name: "path", required: "an absolute path, as in --path=/srv/backup", check: checkFolder}}}
	s3 := &provider{
		name: "s3", kind: "s3", top: "bucket", secret: "secret access key", needed: true,
		constant: []Option{{"env_auth", "false"}, {"no_check_bucket", "true"}}, // what is not there is a mistake, and not made
		fields: []field{
			{name: "bucket", required: "the bucket's name", check: checkTop},
			{name: "path"},
			{name: "endpoint", option: "endpoint", check: checkEndpoint},
			{name: "region", option: "region"},
			{name: "s3-provider"},
			{name: "access-key-id", option: "access_key_id", required: "the ID of the access key"},
		},
		check: func(p map[string]string, _ Secret) error {
			if p["endpoint"] == "" && p["region"] == "" {
				return usage("endpoint", "is missing; want the host of the S3 server, or --region for AWS")
			}
			return nil
		},
		derive: func(p map[string]string, remote *Section) {
			name := p["s3-provider"]
			if name == "" {
				name = recogniseS3(p["endpoint"])
			}
			remote.Set("provider", name)
		},
	}
	s3.store, s3.load = plainSecret("secret_access_key")
	b2 := &provider{
		name: "b2", kind: "b2", top: "bucket", secret: "application key", needed: true,
		fields: []field{
			{name: "bucket", required: "the bucket's name", check: checkTop},
			{name: "path"},
			{name: "account", option: "account", required: "the ID of the application key"},
		},
	}
	b2.store, b2.load = plainSecret("key")
	azure := &provider{
		name: "azure", kind: "azureblob", top: "container", secret: "account key", needed: true,
		fields: []field{
			{name: "container", required: "the container's name", check: checkTop},
			{name: "path"},
			{name: "account", option: "account", required: "the storage account's name"},
			{name: "endpoint", option: "endpoint", check: checkEndpoint},
		},
	}
	azure.store, azure.load = plainSecret("key")
	smb := &provider{
		name: "smb", kind: "smb", top: "share", secret: "password",
		fields: []field{
			{name: "host", option: "host", required: "the server's name", check: checkHost},
			{name: "port", option: "port", check: checkPort},
			{name: "username", option: "user", required: "the user's name"},
			{name: "domain", option: "domain"},
			{name: "share", required: "the share's name", check: checkTop},
			{name: "path"},
		},
	}
	smb.store, smb.load = obscuredSecret("pass")
	sftp := &provider{
		name: "sftp", kind: "sftp", rooted: true, secret: "password, or passphrase of the key",
		constant: []Option{{"shell_type", "none"}}, // restic verifies what it stores; nothing needs to run on the server
		fields: []field{
			{name: "host", option: "host", required: "the server's name", check: checkHost},
			{name: "port", option: "port", check: checkPort},
			{name: "username", option: "user", required: "the user's name"},
			{name: "key-file", option: "key_file", check: checkKeyFile, here: true},
			{
				name: "known-hosts", option: "known_hosts_file", check: checkKnownHosts, here: true,
				required: "a file with the server's key, or anybody could pass for it: ssh-keyscan HOST prints it, compare it with what the server's administrator says",
			},
			{name: "path"},
		},
		check: func(p map[string]string, secret Secret) error {
			if p["key-file"] == "" && secret == "" {
				return usage("key-file", "is missing; want a private key, or a password with --secret-file")
			}
			return nil
		},
	}
	password, loadPassword := obscuredSecret("pass")
	passphrase, loadPassphrase := obscuredSecret("key_file_pass")
	sftp.store = func(remote *Section, s Secret) {
		if remote.Get("key_file") != "" {
			passphrase(remote, s)
			password(remote, "")
			return
		}
		password(remote, s)
		passphrase(remote, "")
	}
	sftp.load = func(remote *Section) Secret {
		if remote.Get("key_file") != "" {
			return loadPassphrase(remote)
		}
		return loadPassword(remote)
	}
	webdav := &provider{
		name: "webdav", kind: "webdav", secret: "password",
		constant: []Option{{"vendor", "other"}},
		fields: []field{
			{name: "url", option: "url", required: "the address, as in --url=https://cloud.example.org/dav/", check: checkURL},
			{name: "username", option: "user"},
			{name: "path"},
		},
		check: userAndPassword,
	}
	webdav.store, webdav.load = obscuredSecret("pass")
	rest := &provider{
		name: providerREST, secret: "password",
		fields: []field{
			{name: "url", required: "the address of a gateway and its destination, or of a rest-server, as in --url=https://backup.example.org:4694/archive/", check: checkURL},
			{name: "username"},
		},
		check: userAndPassword,
	}
	raw := &provider{name: providerRclone, fields: []field{{name: "path"}}, rooted: true}
	return []*provider{local, s3, b2, azure, smb, sftp, webdav, rest, raw}
}

// findProvider returns the provider of that name.
func findProvider(name string) (*provider, error) {
	for _, p := range providers {
		if p.name == name {
			return p, nil
		}
	}
	if name == providerOther {
		return &provider{name: providerOther}, nil
	}
	if name == "" {
		return nil, usage("provider", "is missing; want one of %s", strings.Join(providerNames(), ", "))
	}
	return nil, usage("provider", "there is no %q; want one of %s", name, strings.Join(providerNames(), ", "))
}

// providerNames are the providers that add knows.
func providerNames() []string {
	names := make([]string, 0, len(providers))
	for _, p := range providers {
		names = append(names, p.name)
	}
	return names
}

// SecretOf tells what the secret of a provider is called and whether there must be one; "": it has none.
func SecretOf(providerName string) (what string, needed bool) {
	p, err := findProvider(providerName)
	if err != nil {
		return "", false
	}
	return p.secret, p.needed
}

// judge returns everything that is wrong with parameters.
func (p *provider) judge(parameters map[string]string, secret Secret) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if parameters[name] != "" && !slices.ContainsFunc(p.fields, func(f field) bool { return f.name == name }) {
			errs = append(errs, usage(name, "is not for provider %s; %s", p.name, p.flags()))
		}
	}
	for _, f := range p.fields {
		value := parameters[f.name]
		if value == "" {
			if f.required != "" {
				errs = append(errs, usage(f.name, "is missing; want %s", f.required))
			}
			continue
		}
		err := checkLine(value)
		if err == nil {
			err = checkValue(value)
		}
		if err == nil && userPassword.MatchString(value) {
			err = errors.New("holds a password; want it with --secret-file")
		}
		if err == nil && f.name == "path" {
			err = checkPath(value)
		}
		if err == nil && f.check != nil {
			err = f.check(value)
		}
		if err != nil {
			errs = append(errs, usage(f.name, "%v", err))
		}
	}
	if p.needed && secret == "" {
		errs = append(errs, usage("secret-file", "is missing; want a file with the %s, or - for standard input", p.secret))
	}
	if p.secret == "" && secret != "" {
		errs = append(errs, usage("secret-file", "is not for provider %s, which has no secret of that kind", p.name))
	}
	if p.check != nil && len(errs) == 0 {
		errs = append(errs, p.check(parameters, secret))
	}
	return errors.Join(errs...)
}

func (p *provider) flags() string {
	if len(p.fields) == 0 {
		return "it has no parameters"
	}
	var names []string
	for _, f := range p.fields {
		names = append(names, "--"+f.name)
	}
	return "it has " + strings.Join(names, ", ")
}

// build makes of parameters the remote, nil where rclone is not needed, and the place below it. Options that the provider does not
// know, which somebody may have written into the file, stay in the remote.
func (p *provider) build(id string, parameters map[string]string, secret Secret, old *Section) (remote *Section, location string) {
	switch p.name {
	case providerLocal:
		return nil, path.Clean(parameters["path"])
	case providerREST:
		return nil, strings.TrimRight(parameters["url"], "/") + "/"
	}
	location = p.clean(parameters["path"])
	if p.top != "" {
		location = path.Join(parameters[p.top], location)
	}
	if p.kind == "" {
		return old, location
	}
	remote = &Section{Name: id}
	if old != nil {
		remote = old.clone()
	}
	remote.Name = id
	remote.Set("type", p.kind)
	if p.derive != nil {
		p.derive(parameters, remote)
	}
	for _, o := range p.constant {
		if remote.Get(o.Key) == "" {
			remote.Set(o.Key, o.Value)
		}
	}
	for _, f := range p.fields {
		if f.option != "" {
			remote.Set(f.option, parameters[f.name])
		}
	}
	if p.store != nil {
		p.store(remote, secret)
	}
	return remote, location
}

// parse is build the other way round.
func (p *provider) parse(remote *Section, location string) (parameters map[string]string, secret Secret) {
	parameters = map[string]string{}
	set := func(name, value string) {
		if value != "" {
			parameters[name] = value
		}
	}
	switch p.name {
	case providerLocal:
		set("path", location)
		return parameters, ""
	case providerREST:
		set("url", location)
		return parameters, ""
	case providerOther:
		return parameters, ""
	}
	if p.top != "" {
		var first string
		first, location, _ = strings.Cut(location, "/")
		set(p.top, first)
	}
	set("path", location)
	if remote == nil || p.kind == "" {
		return parameters, ""
	}
	for _, f := range p.fields {
		if f.option != "" {
			set(f.name, remote.Get(f.option))
		}
	}
	if p.name == "s3" && remote.Get("provider") != recogniseS3(parameters["endpoint"]) {
		set("s3-provider", remote.Get("provider"))
	}
	if p.load != nil {
		secret = p.load(remote)
	}
	return parameters, secret
}

// clean returns a folder in its shortest form.
func (p *provider) clean(folder string) string {
	if folder == "" {
		return ""
	}
	folder = path.Clean(folder)
	if !p.rooted {
		folder = strings.TrimLeft(folder, "/")
	}
	if folder == "." {
		return ""
	}
	return folder
}

// recogniseS3 returns rclone's name of who runs an S3 server.
func recogniseS3(endpoint string) string {
	if endpoint == "" {
		return "AWS"
	}
	host := endpoint
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	host, _, _ = strings.Cut(host, ":")
	host = strings.ToLower(host)
	for _, known := range []struct{ domain, name string }{
		{"amazonaws.com", "AWS"},
		{"amazonaws.com.cn", "AWS"},
		{"wasabisys.com", "Wasabi"},
		{"digitaloceanspaces.com", "DigitalOcean"},
		{"cloudflarestorage.com", "Cloudflare"},
	} {
		if host == known.domain || strings.HasSuffix(host, "."+known.domain) {
			return known.name
		}
	}
	return "Other"
}

func userAndPassword(p map[string]string, secret Secret) error {
	switch {
	case p["username"] == "" && secret != "":
		return usage("username", "is missing; want the user that the password belongs to")
	case p["username"] != "" && secret == "":
		return usage("secret-file", "is missing; want a file with the user's password, or - for standard input")
	}
	return nil
}

func checkFolder(value string) error {
	if !strings.HasPrefix(value, "/") {
		return fmt.Errorf("%q is no absolute path; want one that begins with /", value)
	}
	if path.Clean(value) == "/" {
		return errors.New("is the root of the file system; want a folder")
	}
	return nil
}

// checkTop judges the name of a bucket, container or share.
func checkTop(value string) error {
	if strings.ContainsAny(value, "/:") || value == "." || value == ".." {
		return fmt.Errorf("%q is no name; want one without / and :, and folders in it with --path", value)
	}
	return nil
}

func checkPath(value string) error {
	if slices.Contains(strings.Split(value, "/"), "..") {
		return fmt.Errorf("%q leads upwards with ..; want a path without that", value)
	}
	return nil
}

func checkHost(value string) error {
	if strings.ContainsAny(value, "/@ ") {
		return errors.New("is no host; want a name or an address, and the rest with flags of its own") // it may hold a password
	}
	return nil
}

func checkPort(value string) error {
	if n, err := strconv.ParseUint(value, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port; want a number up to 65535", value)
	}
	return nil
}

// checkEndpoint judges the host of a server, with or without a scheme.
func checkEndpoint(value string) error {
	address := value
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	return checkURL(address)
}

func checkURL(value string) error {
	u, err := url.Parse(value)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.RawQuery != "", u.Fragment != "":
		return errors.New("is no address; want one as in https://host.example.org/") // it may hold a password
	case u.User != nil:
		return errors.New("names a user; want that with --username and the password with --secret-file")
	}
	return nil
}

func checkKeyFile(value string) error {
	if !filepath.IsAbs(value) {
		return fmt.Errorf("%q is no absolute path", value)
	}
	return config.CheckSecretFile(value)
}

func checkKnownHosts(value string) error {
	if !filepath.IsAbs(value) {
		return fmt.Errorf("%q is no absolute path", value)
	}
	info, err := os.Stat(value)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", value)
	case info.Size() == 0:
		return fmt.Errorf("%s is empty; want the server's key in it", value)
	}
	return nil
}
