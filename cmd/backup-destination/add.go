package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
)

// parameters are the flags that say where a destination is and how it is reached. Which of them a provider has, internal/destination knows.
type parameters struct {
	Path        *string `placeholder:"PATH" help:"Folder: of local an absolute path, else below the bucket, share, address or home."`
	Bucket      *string `placeholder:"NAME" help:"s3, b2: the bucket."`
	Container   *string `placeholder:"NAME" help:"azure: the container."`
	Share       *string `placeholder:"NAME" help:"smb: the share."`
	Endpoint    *string `placeholder:"HOST" help:"s3, azure: the server; without it AWS and Azure themselves."`
	Region      *string `placeholder:"REGION" help:"s3: the region."`
	S3Provider  *string `name:"s3-provider" placeholder:"NAME" help:"s3: rclone's name of the implementation, as in Minio; default: by the endpoint."`
	AccessKeyID *string `name:"access-key-id" placeholder:"ID" help:"s3: the ID of the access key."`
	Account     *string `placeholder:"ID" help:"b2: the ID of the application key. azure: the storage account."`
	Host        *string `placeholder:"HOST" help:"sftp, smb: the server."`
	Port        *string `placeholder:"PORT" help:"sftp, smb: its port."`
	Username    *string `placeholder:"NAME" help:"sftp, smb, webdav, rest: the user there."`
	Domain      *string `placeholder:"NAME" help:"smb: the user's domain."`
	KeyFile     *string `placeholder:"FILE" help:"sftp: the private key; the secret is its passphrase then." predictor:"file"`
	KnownHosts  *string `placeholder:"FILE" help:"sftp: the server's key, as ssh-keyscan prints it. There must be one." predictor:"file"`
	URL         *string `name:"url" placeholder:"URL" help:"webdav, rest: the address."`

	RcloneConfig string `placeholder:"FILE" help:"rclone: an rclone.conf with the remote, plain or in base64; - reads standard input." predictor:"file"`
	Remote       string `placeholder:"NAME" help:"rclone: which remote of that file, where it has several."`
	SecretFile   string `placeholder:"FILE" help:"Read the provider's secret (key or password) from this file; - reads standard input." predictor:"file"`
	PasswordFile string `placeholder:"FILE" help:"Read the password of the restic repositories from this file; - reads standard input." predictor:"file"`

	Name        *string `placeholder:"TEXT" help:"A name for people; default: the ID."`
	Gateway     *bool   `negatable:"" help:"Whether modules reach it through the gateway; default: where rclone is needed."`
	MaxSize     *string `placeholder:"SIZE" help:"What all repositories may take together, as in 50G, kept by the gateway; 0: no limit."`
	KeepDeleted *string `placeholder:"TIME" help:"How long the gateway keeps what was deleted, as in 30d; 0: not at all."`
	Credential  *bool   `negatable:"" help:"Keep the secrets as credentials, encrypted by systemd-creds, not in files."`
}

// request makes of the flags what internal/destination wants.
func (p *parameters) request(env *cli.Env, id string) (destination.Request, error) {
	r := destination.Request{
		ID: id, Parameters: map[string]string{}, Remote: p.Remote,
		Name: p.Name, Gateway: p.Gateway, MaxSize: p.MaxSize, KeepDeleted: p.KeepDeleted, Credential: p.Credential,
	}
	for name, value := range map[string]*string{
		"path": p.Path, "bucket": p.Bucket, "container": p.Container, "share": p.Share, "endpoint": p.Endpoint, "region": p.Region,
		"s3-provider": p.S3Provider, "access-key-id": p.AccessKeyID, "account": p.Account, "host": p.Host, "port": p.Port,
		"username": p.Username, "domain": p.Domain, "key-file": p.KeyFile, "known-hosts": p.KnownHosts, "url": p.URL,
	} {
		if value != nil {
			r.Parameters[name] = *value
		}
	}
	err := once(p.RcloneConfig, p.SecretFile, p.PasswordFile)
	if err != nil {
		return r, err
	}
	if r.Secret, err = readSecret(env, "secret-file", p.SecretFile); err != nil {
		return r, err
	}
	if r.Password, err = readSecret(env, "password-file", p.PasswordFile); err != nil {
		return r, err
	}
	if p.RcloneConfig != "" {
		data, err := readFile(env, "rclone-config", p.RcloneConfig)
		if err != nil {
			return r, err
		}
		if strings.TrimSpace(string(data)) == "" {
			return r, mistake("--rclone-config: is empty; want an rclone.conf with one remote")
		}
		r.RcloneConfig = destination.Secret(data)
	}
	return r, nil
}

type add struct {
	ID       string `arg:"" name:"id" help:"ID of the destination, as backups name it."`
	Provider string `required:"" enum:"local,s3,b2,azure,smb,sftp,webdav,rest,rclone" placeholder:"PROVIDER" help:"What kind of place it is: ${enum}."`
	parameters
}

// Help implements kong.HelpProvider.
func (*add) Help() string {
	return `A secret is never an argument: it is read from a file or standard input, or asked for on a terminal. Without a password for the
restic repositories one is made and printed once: keep a copy elsewhere, for without it nobody can restore.

Examples:

  backup-destination add archive --provider=local --path=/srv/backup

  backup-destination add cloud --provider=s3 --endpoint=s3.example.org \
    --bucket=backup --access-key-id=AKIA1 --secret-file=key.txt`
}

// Run adds a destination.
func (c *add) Run(ctx context.Context, env *cli.Env, root *command) error {
	store, err := root.store(env)
	if err != nil {
		return err
	}
	r, err := c.request(env, c.ID)
	if err != nil {
		return explain(err)
	}
	r.Provider = c.Provider
	if tty := cli.Terminal(env); tty != nil && once(standardInput, c.RcloneConfig, c.SecretFile, c.PasswordFile) == nil {
		if err := c.ask(ctx, env, &r); err != nil {
			return explain(err)
		}
	}
	result, err := store.Add(ctx, r)
	if err != nil {
		return sameAccount(explain(err), c.Provider)
	}
	if result.Password != "" {
		fmt.Fprintln(env.Stdout, string(result.Password))
		fmt.Fprintln(env.Stderr, "This is the password of the restic repositories. Keep a copy of it elsewhere: without it nobody can restore anything.")
	}
	tell(env, result)
	return nil
}

// ask asks on a terminal for the secrets that no flag gives.
func (c *add) ask(ctx context.Context, env *cli.Env, r *destination.Request) (err error) {
	tty := cli.Terminal(env)
	what, needed := destination.SecretOf(c.Provider)
	if what != "" && r.Secret == "" && (needed || r.Parameters["username"] != "") {
		optional := ""
		if !needed {
			optional = " (empty: none)"
		}
		if r.Secret, err = ask(ctx, env, tty, what+optional+": "); err != nil {
			return err
		}
	}
	if r.Password == "" {
		r.Password, err = askTwice(ctx, env, tty, "password of the restic repositories (empty: make one): ")
	}
	return err
}

// sameAccount says how to add two accounts that differ in their secrets only.
func sameAccount(err error, provider string) error {
	if e := (*destination.ExistsError)(nil); provider == "rclone" && errors.As(err, &e) && e.Same {
		return cli.Hint(err, `if it is another account at the same service, give the remote a line of its own, as in description = "..."`)
	}
	return err
}

// tell says what was written.
func tell(env *cli.Env, r destination.Result) {
	fmt.Fprintf(env.Stderr, "destination %s is in %s\n", r.ID, strings.Join(r.Files, ", "))
	if r.Loads != "" {
		tellLoads(env, r.Loads)
	}
}

// tellLoads says what a credential takes: only systemd can hand it to the gateway, and only when that starts.
func tellLoads(env *cli.Env, names ...string) {
	for _, name := range names {
		fmt.Fprintf(env.Stderr, "The gateway gets it from LoadCredentialEncrypted=%s in \"systemctl edit backup-gateway.service\", when it is restarted.\n", name)
	}
}

type alter struct {
	ID       string `arg:"" name:"id" help:"ID of the destination." predictor:"destination"`
	Provider string `placeholder:"PROVIDER" help:"Its provider, which cannot change."`
	parameters
}

// Help implements kong.HelpProvider.
func (*alter) Help() string {
	return `An empty value takes a parameter away. Secrets that are not mentioned stay. A new password is for new repositories: those that
are there keep theirs, so the old one is kept beside it.

Example:

  backup-destination alter cloud --max-size=500G --secret-file=newkey.txt`
}

// Run alters a destination.
func (c *alter) Run(ctx context.Context, env *cli.Env, root *command) error {
	store, err := root.store(env)
	if err != nil {
		return err
	}
	r, err := c.request(env, c.ID)
	if err != nil {
		return explain(err)
	}
	r.Provider = c.Provider
	result, err := store.Alter(ctx, r)
	if err != nil {
		return explain(err)
	}
	if result.Kept != "" {
		fmt.Fprintf(env.Stderr, "The repositories that are there have the old password still, which is kept in %s; \"restic key passwd\" changes theirs.\n", result.Kept)
	}
	tell(env, result)
	return nil
}
