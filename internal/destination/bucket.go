package destination

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"sdbackup/filebackup"
	"sdbackup/internal/config"
	"sdbackup/internal/module"
)

// examineBucket finds out whether the bucket of modules of engine files can be listed with the destination's keys. Nothing is stored there: an
// Object Lock would keep it.
func examineBucket(ctx context.Context, d *config.Destination, hide *masker) Verdict {
	environment, err := module.ReadEnvironment(d.EnvironmentFile)
	if err != nil {
		return Verdict{Outcome: NotAccessible, Detail: err.Error()}
	}
	c, err := module.Files{Bucket: *d.Bucket, Prefix: "sdbackup-probe"}.Config("", environment, "")
	if err != nil {
		return Verdict{Outcome: NotAccessible, Detail: err.Error()}
	}
	hide.add(Secret(c.S3.SecretKey), Secret(c.S3.SessionToken))
	if err := answers(ctx, c.S3.Endpoint); err != nil {
		return inaccessible(ctx, err)
	}
	c.ReadOnly = true
	bucket, err := filebackup.Open(c)
	if err == nil {
		_, err = bucket.Recent(ctx, 1)
	}
	if err != nil {
		return inaccessible(ctx, err)
	}
	return Verdict{Outcome: OK, Detail: "listed; only a backup tells whether it can be written to"}
}

// answers tells why a server does not answer, whatever it would say. The package filebackup tries that for long before it says so.
func answers(ctx context.Context, endpoint string) error {
	if endpoint == "" {
		return nil // Amazon's
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, endpoint, http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) && !errors.Is(err, io.EOF) {
			err = e.Err
		}
		return err
	}
	return response.Body.Close()
}
