package filebackup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is rrbackup's configuration, and more. The zero value of what is not set is rrbackup's default, but for FollowSymlinks.
type Config struct {
	BasePath          string // the folder that is backed up
	LocalManifestFile string // the cache of the latest version; what belongs to it is beside it
	LocalLockFile     string

	S3     S3
	Crypto Crypto

	MetaPipeline []string   // of the words encrypt and compress
	FilePipeline []Pipeline // the first that matches counts
	IgnoreFiles  []string   // patterns of paths
	SkipDelete   []string   // patterns of paths that stay in the backup when they are removed from the folder

	// Include are the paths that are backed up, each with all that is in it, as in "/photos"; default: everything. Folders above them are
	// saved without anything else that is in them, and need not be readable.
	Include []string
	// Ignore tells of paths that are left out, besides IgnoreFiles; nil: none.
	Ignore func(path string) bool

	ReadOnly            bool
	WriteOnly           bool
	AllowDeleteVersions *bool // default: true
	VisitMountpoints    *bool // default: true
	FollowSymlinks      bool
	ChunkSize           int // bytes that are encrypted together; default: 5 MiB
	SplitChunkSize      int // so many changes make a version; default: 0, all of them one
	SnapshotInterval    int // after so many versions the whole manifest is stored; default: 32
	Parallel            int // default: 8
	Retain              string

	RemoteManifestDiffFile     string
	RemoteGCLogFile            string
	RemoteGarbageObjectLogFile string
	RemoteBasePath             string
	RemoteSnapshotPath         string
	RemoteExpiredFile          string

	// Log tells of what is worth knowing; nil is nobody.
	Log *slog.Logger
	// Fault is for tests: it is called before every step that changes something, and what it returns is what the step fails with.
	Fault func(step string) error

	retain time.Duration
}

// S3 is where the bucket is.
type S3 struct {
	Endpoint     string // URL; default: that of Amazon
	Region       string
	Bucket       string
	AccessKey    string
	SecretKey    string
	SessionToken string
	StorageClass string
}

// Crypto is what encryption needs.
type Crypto struct {
	Password       string
	RemoteSaltFile string
	// KeyDerivation is that of a new bucket: argon2id, or argon2i, which rrbackup can read. Default: argon2id.
	KeyDerivation string
}

// Pipeline says what is done to the files that a pattern matches.
type Pipeline struct {
	Pattern string
	Words   []string // hash_names, compress, encrypt; always done in this order
}

// ConfigError is everything that is wrong with a configuration.
type ConfigError struct{ Problems []string }

func (e *ConfigError) Error() string { return strings.Join(e.Problems, "\n") }

// LoadConfig reads rrbackup's configuration.json.
func LoadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(data)
	if info, failed := os.Stat(path); failed == nil && c != nil && c.S3.SecretKey != "" && info.Mode().Perm()&0o007 != 0 {
		return nil, &ConfigError{[]string{fmt.Sprintf("%s: can be read by others, and has the secret key: chmod o= it", path)}}
	}
	if e := (*ConfigError)(nil); errors.As(err, &e) {
		for i := range e.Problems {
			e.Problems[i] = path + ": " + e.Problems[i]
		}
	}
	return c, err
}

// jsonConfig has the names of configuration.json.
type jsonConfig struct {
	BasePath          string `json:"base_path"`
	LocalManifestFile string `json:"local_manifest_file"`
	LocalLockFile     string `json:"local_lock_file"`
	S3                struct {
		AccessKey    string `json:"access_key"`
		SecretKey    string `json:"secret_key"`
		SessionToken string `json:"session_token"`
		Bucket       string `json:"bucket"`
		Endpoint     string `json:"endpoint"`
		Region       string `json:"region"`
		StorageClass string `json:"storage_class"`
	} `json:"s3"`
	Crypto struct {
		Password      *string `json:"crypt_password"`
		PasswordFile  string  `json:"crypt_password_file"`
		SaltFile      string  `json:"remote_password_salt_file"`
		KeyDerivation string  `json:"key_derivation"`
	} `json:"crypto"`
	MetaPipeline        []string            `json:"meta_pipeline"`
	FilePipeline        [][]json.RawMessage `json:"file_pipeline"`
	IgnoreFiles         []string            `json:"ignore_files"`
	SkipDelete          []string            `json:"skip_delete"`
	ReadOnly            bool                `json:"read_only"`
	WriteOnly           bool                `json:"write_only"`
	AllowDeleteVersions *bool               `json:"allow_delete_versions"`
	VisitMountpoints    *bool               `json:"visit_mountpoints"`
	FollowSymlinks      bool                `json:"follow_symlinks"`
	ChunkSize           int                 `json:"chunk_size"`
	SplitChunkSize      int                 `json:"split_chunk_size"`
	SnapshotInterval    int                 `json:"snapshot_interval"`
	Parallel            int                 `json:"parallel"`
	Retain              string              `json:"retain"`
	ManifestDiff        string              `json:"remote_manifest_diff_file"`
	GCLog               string              `json:"remote_gc_log_file"`
	Garbage             string              `json:"remote_garbage_object_log_file"`
	BaseOfFiles         string              `json:"remote_base_path"`
	Snapshots           string              `json:"remote_snapshot_path"`
	Expired             string              `json:"remote_expired_file"`
	Salt                string              `json:"remote_password_salt_file"` // where rrbackup's documentation has it
}

// ParseConfig reads the text of rrbackup's configuration.json. A comma before a closing brace, as in the examples of rrbackup's
// documentation, does no harm. The error is a *ConfigError.
func ParseConfig(text []byte) (*Config, error) {
	var j jsonConfig
	text = withoutTrailingCommas(text)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return nil, &ConfigError{[]string{place(text, d.InputOffset(), err)}}
	}
	if d.More() {
		return nil, &ConfigError{[]string{place(text, d.InputOffset(), errors.New("something follows the configuration"))}}
	}
	c := &Config{
		BasePath: j.BasePath, LocalManifestFile: j.LocalManifestFile, LocalLockFile: j.LocalLockFile,
		S3: S3{
			Endpoint: j.S3.Endpoint, Region: j.S3.Region, Bucket: j.S3.Bucket, AccessKey: j.S3.AccessKey, SecretKey: j.S3.SecretKey,
			SessionToken: j.S3.SessionToken, StorageClass: j.S3.StorageClass,
		},
		Crypto:       Crypto{RemoteSaltFile: j.Crypto.SaltFile, KeyDerivation: j.Crypto.KeyDerivation},
		MetaPipeline: j.MetaPipeline, IgnoreFiles: j.IgnoreFiles, SkipDelete: j.SkipDelete,
		ReadOnly: j.ReadOnly, WriteOnly: j.WriteOnly, AllowDeleteVersions: j.AllowDeleteVersions, VisitMountpoints: j.VisitMountpoints,
		FollowSymlinks: j.FollowSymlinks, ChunkSize: j.ChunkSize, SplitChunkSize: j.SplitChunkSize, SnapshotInterval: j.SnapshotInterval,
		Parallel: j.Parallel, Retain: j.Retain,
		RemoteManifestDiffFile: j.ManifestDiff, RemoteGCLogFile: j.GCLog, RemoteGarbageObjectLogFile: j.Garbage,
		RemoteBasePath: j.BaseOfFiles, RemoteSnapshotPath: j.Snapshots, RemoteExpiredFile: j.Expired,
	}
	var problems []string
	if j.Salt != "" {
		if c.Crypto.RemoteSaltFile != "" && c.Crypto.RemoteSaltFile != j.Salt {
			problems = append(problems, "remote_password_salt_file: is given twice, with two names")
		}
		c.Crypto.RemoteSaltFile = j.Salt
	}
	if j.Crypto.Password != nil {
		c.Crypto.Password = *j.Crypto.Password
	}
	if j.Crypto.PasswordFile != "" {
		password, err := readSecret(j.Crypto.PasswordFile)
		switch {
		case c.Crypto.Password != "":
			problems = append(problems, "crypto: crypt_password and crypt_password_file are both given")
		case err != nil:
			problems = append(problems, "crypto.crypt_password_file: "+err.Error())
		}
		c.Crypto.Password = password
	}
	for i, element := range j.FilePipeline {
		var p Pipeline
		if len(element) != 2 || json.Unmarshal(element[0], &p.Pattern) != nil || json.Unmarshal(element[1], &p.Words) != nil {
			problems = append(problems, fmt.Sprintf(`file_pipeline: element %d: want a pattern and a list of words, as in ["*", ["encrypt"]]`, i+1))
			continue
		}
		c.FilePipeline = append(c.FilePipeline, p)
	}
	if err := c.validate(); err != nil {
		problems = append(problems, err.(*ConfigError).Problems...) //nolint:errorlint // it is one
	}
	if len(problems) > 0 {
		return nil, &ConfigError{problems}
	}
	return c, nil
}

// readSecret reads a file that nobody else may read.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others: chmod 600 it", path)
	}
	data, err := os.ReadFile(path)
	return strings.TrimSuffix(string(data), "\n"), err
}

// place says in which line an error is.
func place(text []byte, offset int64, err error) string {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &wrong):
		offset = wrong.Offset
		err = fmt.Errorf("%s: want a %v, not a %s", wrong.Field, wrong.Type, wrong.Value)
	}
	line := 1 + bytes.Count(text[:min(offset, int64(len(text)))], []byte("\n"))
	return fmt.Sprintf("line %d: %s", line, strings.TrimPrefix(err.Error(), "json: "))
}

// withoutTrailingCommas puts blanks in place of commas that nothing follows.
func withoutTrailingCommas(text []byte) []byte {
	text = bytes.Clone(text)
	comma, quoted := -1, false
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted, comma = !quoted, -1
		case quoted, b == ' ', b == '\n', b == '\r', b == '\t':
		case b == ',':
			comma = i
		case (b == '}' || b == ']') && comma >= 0:
			text[comma] = ' '
			comma = -1
		default:
			comma = -1
		}
	}
	return text
}

func (c *Config) parallel() int { return or(c.Parallel, 8) }

// ParseDuration reads a span of time as in 30d, 12h or 2y5m7d3h, of which m is months, as restic does.
func ParseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	units := map[string]time.Duration{"y": 365 * day, "m": 30 * day, "w": 7 * day, "d": day, "h": time.Hour}
	if !durationPattern.MatchString(s) || s == "" {
		return 0, fmt.Errorf("%q is no span of time: want one as in 30d", s)
	}
	var sum time.Duration
	for _, m := range durationPart.FindAllStringSubmatch(s, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 100000 {
			return 0, fmt.Errorf("%q is too long a span of time", s)
		}
		sum += time.Duration(n) * units[m[2]]
	}
	return sum, nil
}

var (
	durationPattern = regexp.MustCompile(`^(\d+[ymwdh])*$`)
	durationPart    = regexp.MustCompile(`(\d+)([ymwdh])`)
)

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// validate fills in what is not set, and says everything that is wrong.
func (c *Config) validate() error {
	var problems []string
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, f := range []struct {
		name  *string
		value string
	}{
		{&c.RemoteManifestDiffFile, "manifest_diffs"},
		{&c.RemoteGCLogFile, "gc_log"},
		{&c.RemoteGarbageObjectLogFile, "garbage_objects"},
		{&c.RemoteBasePath, "files"},
		{&c.RemoteSnapshotPath, "manifest_snapshots"},
		{&c.RemoteExpiredFile, "expired_versions"},
		{&c.Crypto.RemoteSaltFile, "salt_file"},
		{&c.Crypto.KeyDerivation, "argon2id"},
		{&c.LocalManifestFile, "manifest"},
		{&c.LocalLockFile, "rrbackup_lock"},
	} {
		*f.name = or(*f.name, f.value)
	}
	c.ChunkSize, c.SnapshotInterval = or(c.ChunkSize, 5<<20), or(c.SnapshotInterval, 32)
	if c.FilePipeline == nil {
		c.FilePipeline = []Pipeline{{"*", nil}}
	}
	if c.S3.Bucket == "" {
		bad("s3.bucket: is missing")
	}
	if c.S3.AccessKey == "" || c.S3.SecretKey == "" {
		bad("s3: access_key and secret_key are needed")
	}
	for _, name := range []string{c.RemoteManifestDiffFile, c.RemoteGCLogFile, c.RemoteGarbageObjectLogFile, c.RemoteBasePath, c.RemoteSnapshotPath, c.RemoteExpiredFile, c.Crypto.RemoteSaltFile} {
		if checkPath("/"+name) != nil {
			bad("%q is no name of an object", name)
		}
	}
	// rrbackup takes every object whose name begins like this for a diff.
	for _, name := range []string{c.RemoteGCLogFile, c.RemoteGarbageObjectLogFile, c.RemoteBasePath, c.RemoteSnapshotPath, c.RemoteExpiredFile, c.Crypto.RemoteSaltFile} {
		if strings.HasPrefix(name, c.RemoteManifestDiffFile) {
			bad("%q must not begin with the name of the manifest diffs, %q", name, c.RemoteManifestDiffFile)
		}
	}
	names := []string{c.RemoteManifestDiffFile, c.RemoteGCLogFile, c.RemoteGarbageObjectLogFile, c.RemoteExpiredFile, c.Crypto.RemoteSaltFile, c.RemoteBasePath, c.RemoteSnapshotPath}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			bad("two remote files have the name %q", name)
		}
		if strings.HasPrefix(name, c.RemoteBasePath+"/") || strings.HasPrefix(name, c.RemoteSnapshotPath+"/") {
			bad("%q is in a folder of other objects", name)
		}
	}
	for _, p := range c.Include {
		if p != "/" && checkPath(p) != nil {
			bad("include: %q is no path that begins with /", p)
		}
	}
	encrypt := false
	words := func(place string, list, known []string) {
		for _, word := range list {
			if !slices.Contains(known, word) {
				bad("%s: %q is not known; want %s", place, word, strings.Join(known, ", "))
			}
			encrypt = encrypt || word == pipeEncrypt || word == pipeHash
		}
	}
	words("meta_pipeline", c.MetaPipeline, []string{pipeCompress, pipeEncrypt})
	for _, p := range c.FilePipeline {
		words("file_pipeline: "+strconv.Quote(p.Pattern), p.Words, []string{pipeHash, pipeCompress, pipeEncrypt})
		if !validPattern(p.Pattern) {
			bad("file_pipeline: the pattern %q begins neither with / nor with a wildcard", p.Pattern)
		}
	}
	for key, list := range map[string][]string{"ignore_files": c.IgnoreFiles, "skip_delete": c.SkipDelete} {
		for _, p := range list {
			if !validPattern(p) {
				bad("%s: the pattern %q begins neither with / nor with a wildcard", key, p)
			}
		}
	}
	if encrypt && c.Crypto.Password == "" {
		bad("crypto.crypt_password: is missing, and pipelines say encrypt or hash_names")
	}
	if c.Crypto.KeyDerivation != "argon2id" && c.Crypto.KeyDerivation != "argon2i" {
		bad("crypto.key_derivation: %q is not known; want argon2id or argon2i", c.Crypto.KeyDerivation)
	}
	if c.ReadOnly && c.WriteOnly {
		bad("read_only and write_only are both true")
	}
	if c.ChunkSize < 1 || c.ChunkSize > 256<<20 {
		bad("chunk_size: is %d; want 1 to %d", c.ChunkSize, 256<<20)
	}
	if c.SplitChunkSize < 0 || c.SnapshotInterval < 1 || c.Parallel < 0 || c.Parallel > 256 {
		bad("split_chunk_size, snapshot_interval or parallel (up to 256) is out of range")
	}
	if c.Retain != "" {
		var err error
		if c.retain, err = ParseDuration(c.Retain); err != nil {
			bad("retain: %v", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	slices.Sort(problems)
	if len(problems) > 0 {
		return &ConfigError{slices.Compact(problems)}
	}
	return nil
}

func validPattern(p string) bool { return p != "" && strings.ContainsRune("/*?[", rune(p[0])) }

// deletes tells whether this configuration may remove versions of objects.
func (c *Config) deletes() bool {
	return !c.ReadOnly && !c.WriteOnly && (c.AllowDeleteVersions == nil || *c.AllowDeleteVersions)
}
