package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// rc calls rclone's remote control, https://rclone.org/rc/, of the child that serves WebDAV.
func (r *rclone) rc(ctx context.Context, command string, in, out any) error {
	p, release, err := r.dav.use(time.Now())
	if err != nil {
		return err
	}
	defer release()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.control.JoinPath(command).String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth(p.user, p.password)
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return &unavailableError{err}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return &unavailableError{err}
	}
	if resp.StatusCode != http.StatusOK {
		var failure struct {
			Error string `json:"error"`
		}
		_ = json.Unmarshal(answer, &failure)
		return &statusError{resp.StatusCode, command + ": " + failure.Error}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read rclone's answer to %s: %w", command, err)
	}
	return nil
}

const maxAnswerBytes = 16 << 20

// notFound tells whether rclone says that something is not there.
func notFound(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "not found") || strings.Contains(err.Error(), "no such"))
}

// move moves a file within the remote, by the storage itself where it can. One that is not there is as good as moved.
func (r *rclone) move(ctx context.Context, from, to string) error {
	err := r.rc(ctx, "operations/movefile", map[string]any{"srcFs": r.remote, "srcRemote": from, "dstFs": r.remote, "dstRemote": to}, nil)
	if notFound(err) {
		return nil
	}
	return err
}

// purge removes a folder and all that is in it.
func (r *rclone) purge(ctx context.Context, folder string) error {
	err := r.rc(ctx, "operations/purge", map[string]any{"fs": r.remote, "remote": folder}, nil)
	if notFound(err) {
		return nil
	}
	return err
}

// folders lists the folders in a folder.
func (r *rclone) folders(ctx context.Context, folder string) ([]string, error) {
	var answer struct {
		List []struct {
			Name  string
			IsDir bool
		} `json:"list"`
	}
	err := r.rc(ctx, "operations/list", map[string]any{"fs": r.remote, "remote": folder}, &answer)
	if notFound(err) {
		return nil, nil
	}
	var names []string
	for _, e := range answer.List {
		if e.IsDir {
			names = append(names, e.Name)
		}
	}
	return names, err
}

// size returns how many bytes a folder of the remote holds; "" is all of it.
func (r *rclone) size(ctx context.Context, folder string) (int64, error) {
	var answer struct {
		Bytes int64 `json:"bytes"`
	}
	remote := r.remote
	if folder != "" {
		remote = strings.TrimSuffix(remote, "/") + "/" + folder
		if strings.HasSuffix(r.remote, ":") {
			remote = r.remote + folder
		}
	}
	err := r.rc(ctx, "operations/size", map[string]any{"fs": remote}, &answer)
	if notFound(err) {
		return 0, nil
	}
	return answer.Bytes, err
}
