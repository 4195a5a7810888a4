package run

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/scrypt"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/lock"
	"sdbackup/internal/nodecopy"
	"sdbackup/internal/status"
)

// nodeCopyTimeout bounds how long the copy may hold up the modules.
const nodeCopyTimeout = 5 * time.Minute

// copyNode leaves a copy of the node's configuration at the backup's destination, when there is none or it is no longer the same. It returns
// nil when none is to be there. That it fails keeps no module from being saved.
func (r *Runner) copyNode(ctx context.Context, log *slog.Logger, b *config.Backup) *status.NodeCopy {
	d := r.Config.Destinations[b.Destination]
	if b.IsCheck() || b.IsDrill() || d == nil || !r.Config.Node.HasPassphrase() || !d.TakesNodeCopies() {
		return nil
	}
	if slices.ContainsFunc(r.Paths.Config, config.InMemory) {
		return nil // it is another host's to keep
	}
	written, err := r.writeNodeCopy(ctx, log, d)
	if ctx.Err() != nil {
		return nil // stopped, which the run's verdict tells
	}
	result := &status.NodeCopy{Outcome: status.Success, Written: written, Time: r.Now()}
	if err != nil {
		result.Outcome, result.Error = status.Failed, err.Error()
		log.Warn(fmt.Sprintf("the copy of this node's configuration at destination %s is not written: %v; the modules are saved all the same", d.ID, err),
			journal.Message(journal.NodeCopyFailed))
	}
	return result
}

func (r *Runner) writeNodeCopy(ctx context.Context, log *slog.Logger, d *config.Destination) (written bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, nodeCopyTimeout)
	defer cancel()
	if errs := r.Config.ErrorsOf(config.KindNode, ""); len(errs) > 0 {
		return false, errors.New(errs[0].String())
	}
	passphrase, err := nodecopy.Passphrase(ctx, r.Config.Node, r.Getenv)
	if err != nil {
		return false, err
	}
	c, err := nodecopy.Collect(ctx, r.Config, r.Paths, r.Getenv, r.Version)
	if err != nil {
		return false, err
	}
	held, err := r.lockNodeCopy(ctx, d)
	if err != nil {
		return false, err
	}
	defer held.Release()
	at, err := r.shelf(ctx, d)
	if err != nil {
		return false, err
	}
	defer at.close()

	uuid := c.Manifest.Node.UUID
	note := nodeCopyNote{path: filepath.Join(r.Paths.State, "node-copy", d.ID+".json")}
	note.read()
	size, err := at.size(ctx, nodecopy.FileName(uuid))
	if err != nil {
		return false, err
	}
	mark, err := note.markOf(c, passphrase)
	if err != nil {
		return false, err
	}
	if size == note.Size && size > 0 && hmac.Equal(mark, note.Mark) {
		return false, nil
	}
	var file bytes.Buffer // it is small, and has to be sent and compared
	if err := c.Encrypt(&file, passphrase); err != nil {
		return false, err
	}
	if err := at.replace(ctx, uuid, file.Bytes()); err != nil {
		return false, err
	}
	log.Info(fmt.Sprintf("a copy of this node's configuration is at destination %s", d.ID), "file", nodecopy.FileName(uuid), "bytes", file.Len())
	if missing := c.Warnings(); !slices.Equal(missing, note.Missing) {
		for _, line := range missing {
			log.Warn("copy of this node's configuration: " + line)
		}
		note.Missing = missing
	}
	note.Size, note.Mark = int64(file.Len()), mark
	if err := note.write(); err != nil {
		log.Warn(fmt.Sprintf("note that the copy of this node's configuration is written: %v; the next run writes it again", err))
	}
	return true, nil
}

// lockNodeCopy waits until no other backup's run writes the copy at the destination.
func (r *Runner) lockNodeCopy(ctx context.Context, d *config.Destination) (*lock.Lock, error) {
	if err := lock.EnsureDir(r.Paths.Lock); err != nil {
		return nil, err
	}
	path := filepath.Join(r.Paths.Lock, "node-copy@"+d.ID+".lock") // "@" is in no ID
	for {
		held, err := lock.TryExclusive(path, "the copy of the node")
		if busy := (*lock.HeldError)(nil); !errors.As(err, &busy) {
			return held, err
		}
		if err := lock.Wait(ctx, path); err != nil {
			return nil, fmt.Errorf("wait for another run that writes it: %w", err)
		}
	}
}

// nodeCopyNote remembers what was last written to a destination. It can be lost: then the copy is written again.
type nodeCopyNote struct {
	Salt    []byte   `json:"salt"`
	Mark    []byte   `json:"mark"` // of the copy and its passphrase
	Size    int64    `json:"size"`
	Missing []string `json:"missing,omitempty"` // what was told of

	path string
}

func (n *nodeCopyNote) read() {
	if data, err := os.ReadFile(n.path); err != nil || json.Unmarshal(data, n) != nil || len(n.Salt) != saltBytes {
		*n = nodeCopyNote{path: n.path, Salt: make([]byte, saltBytes)}
		rand.Read(n.Salt) // never fails, crypto/rand
	}
}

func (n *nodeCopyNote) write() error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	dir := filepath.Dir(n.path)
	if err := atomicfile.MakeDir(dir, 0o700); err != nil {
		return err
	}
	atomicfile.Sweep(dir, filepath.Base(n.path))
	if err := atomicfile.Write(n.path, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// Of scrypt, RFC 7914: a tenth of a second.
const (
	saltBytes             = 16
	scryptN, scryptR      = 1 << 15, 8
	scryptP, scryptLength = 1, sha256.Size
)

// markOf tells copies and passphrases apart. Who reads the note, and even knows what is in the copy, finds the passphrase hardly faster
// by it than by the copy.
func (n *nodeCopyNote) markOf(c nodecopy.Copy, passphrase []byte) ([]byte, error) {
	key, err := scrypt.Key(passphrase, n.Salt, scryptN, scryptR, scryptP, scryptLength)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, key)
	fmt.Fprint(h, c.Manifest.Node.UUID, " ", c.Digest())
	return h.Sum(nil), nil
}

// shelf is where a destination keeps copies of nodes.
type shelf interface {
	size(ctx context.Context, name string) (int64, error) // 0: it is not there
	// replace writes a node's copy. Whatever happens meanwhile, the old one or the new one is there in whole, as FileName or StagedName.
	replace(ctx context.Context, uuid string, data []byte) error
	close()
}

func (r *Runner) shelf(ctx context.Context, d *config.Destination) (shelf, error) {
	if d.Gateway {
		client, err := NewNodeClient(ctx, r.Config, r.Paths)
		if err != nil {
			return nil, err
		}
		return gatewayShelf{client, "/" + d.ID + "/"}, nil
	}
	folder, _ := d.Local()
	if info, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, fmt.Errorf("the destination's folder %s does not exist: is its disk mounted?", folder)
	} else if err != nil {
		return nil, fmt.Errorf("open the destination's folder: %w", err)
	}
	return folderShelf(folder), nil
}

// folderShelf is a folder. Of a symbolic link by the name of a copy the link is replaced, not what it leads to.
type folderShelf string

func (s folderShelf) close() {}

func (s folderShelf) size(_ context.Context, name string) (int64, error) {
	info, err := os.Lstat(filepath.Join(string(s), name))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (s folderShelf) replace(_ context.Context, uuid string, data []byte) error {
	name := nodecopy.FileName(uuid)
	atomicfile.Sweep(string(s), name)
	if err := atomicfile.Write(filepath.Join(string(s), name), data, 0o600); err != nil {
		return err
	}
	return atomicfile.SyncDir(string(s))
}

// gatewayShelf is a destination behind the gateway. What storages do with an upload that is cut differs, some replace a file by what came
// of it; and where what was deleted is kept, nothing is replaced. So a file is uploaded by another name and read back, then the old one
// is deleted, then the new one gets its name.
type gatewayShelf struct {
	client *NodeClient
	folder string
}

func (s gatewayShelf) close() { s.client.Close() }

// ask makes a request and drains its answer; one of these status codes is no error.
func (s gatewayShelf) ask(ctx context.Context, method, name string, header http.Header, body []byte, fine ...int) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	resp, err := s.client.send(ctx, method, s.folder+name, header, reader)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err
		}
		return nil, fmt.Errorf("ask the gateway: %w", err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	if resp.StatusCode < 300 || slices.Contains(fine, resp.StatusCode) {
		return resp, nil
	}
	said := strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
	if resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented {
		said = strings.TrimSpace("the destination's server may know no WebDAV; " + said)
	}
	return nil, fmt.Errorf("the gateway answered %s to %s %s: %s", resp.Status, method, name, said)
}

func (s gatewayShelf) size(ctx context.Context, name string) (int64, error) {
	resp, err := s.ask(ctx, http.MethodHead, name, nil, nil, http.StatusNotFound)
	if err != nil || resp.StatusCode == http.StatusNotFound {
		return 0, err
	}
	return max(resp.ContentLength, 0), nil
}

func (s gatewayShelf) exists(ctx context.Context, name string) (bool, error) {
	resp, err := s.ask(ctx, http.MethodHead, name, nil, nil, http.StatusNotFound)
	return err == nil && resp.StatusCode != http.StatusNotFound, err
}

func (s gatewayShelf) remove(ctx context.Context, name string) error {
	_, err := s.ask(ctx, http.MethodDelete, name, nil, nil, http.StatusNotFound)
	return err
}

func (s gatewayShelf) move(ctx context.Context, from, to string) error {
	_, err := s.ask(ctx, "MOVE", from, http.Header{"Destination": {s.folder + to}, "Overwrite": {"F"}}, nil)
	return err
}

func (s gatewayShelf) replace(ctx context.Context, uuid string, data []byte) error {
	name, staged := nodecopy.FileName(uuid), nodecopy.StagedName(uuid)
	there, err := s.exists(ctx, name)
	if err != nil {
		return err
	}
	left, err := s.exists(ctx, staged)
	if err != nil {
		return err
	}
	switch {
	case left && !there: // whoever wrote it was stopped before its last step: it may be the only one
		if err := s.move(ctx, staged, name); err != nil {
			return err
		}
		there = true
	case left: // a part, or one that is out of date
		if err := s.remove(ctx, staged); err != nil {
			return err
		}
	}
	if _, err := s.ask(ctx, http.MethodPut, staged, http.Header{"Content-Type": {"application/pgp-encrypted"}}, data); err != nil {
		return err
	}
	if err := s.compare(ctx, staged, data); err != nil {
		return err
	}
	if there {
		if err := s.remove(ctx, name); err != nil {
			return err
		}
	}
	if err := s.move(ctx, staged, name); err != nil {
		return err
	}
	if size, err := s.size(ctx, name); err != nil {
		return err
	} else if size != int64(len(data)) {
		return fmt.Errorf("the destination has %d bytes of %d that were written", size, len(data))
	}
	return nil
}

// compare reads a file back.
func (s gatewayShelf) compare(ctx context.Context, name string, want []byte) error {
	resp, err := s.client.send(ctx, http.MethodGet, s.folder+name, nil, nil)
	if err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("read it back: the gateway answered %s", resp.Status)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(resp.Body, int64(len(want))+1)); err != nil {
		return fmt.Errorf("read it back: %w", err)
	}
	if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) {
		return errors.New("the destination does not hold what was written to it")
	}
	return nil
}
