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

// hold moves a file or folder within the remote; what is there already stays, and what would replace it is deleted.
func (r *rclone) hold(ctx context.Context, from, to string, isFolder bool) error {
	if !isFolder {
		found, err := r.stat(ctx, to, map[string]any{"filesOnly": true})
		if err != nil {
			return err
		}
		if found == nil {
			return r.move(ctx, from, to)
		}
		err = r.rc(ctx, "operations/deletefile", map[string]any{"fs": r.remote, "remote": from}, nil)
		if notFound(err) {
			return nil
		}
		return err
	}
	err := r.rc(ctx, "sync/move", map[string]any{
		"srcFs": r.at(from), "dstFs": r.at(to), "deleteEmptySrcDirs": true, "_config": map[string]any{"IgnoreExisting": true},
	}, nil)
	if err == nil {
		return r.purge(ctx, from)
	}
	if notFound(err) {
		return nil
	}
	return err
}

// item is what rclone says of a file or folder.
type item struct {
	IsDir bool
	Size  int64
}

// stat looks at a file or folder; nil when there is none.
func (r *rclone) stat(ctx context.Context, name string, options map[string]any) (*item, error) {
	var answer struct {
		Item *item `json:"item"`
	}
	err := r.rc(ctx, "operations/stat", map[string]any{"fs": r.remote, "remote": name, "opt": options}, &answer)
	if notFound(err) {
		return nil, nil
	}
	return answer.Item, err
}

// look looks at a file, with one request to the storage.
func (r *rclone) look(ctx context.Context, name string) (size int64, exists bool, err error) {
	found, err := r.stat(ctx, name, map[string]any{"filesOnly": true, "noModTime": true, "noMimeType": true})
	if err != nil {
		return 0, false, &unavailableError{err}
	}
	if found == nil {
		return 0, false, nil
	}
	return found.Size, true, nil
}

// at is the remote's folder in rclone's notation; "" is all of it.
func (r *rclone) at(folder string) string {
	switch {
	case folder == "":
		return r.remote
	case strings.HasSuffix(r.remote, ":"):
		return r.remote + folder
	}
	return strings.TrimSuffix(r.remote, "/") + "/" + folder
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
	err := r.rc(ctx, "operations/size", map[string]any{"fs": r.at(folder)}, &answer)
	if notFound(err) {
		return 0, nil
	}
	return answer.Bytes, err
}
