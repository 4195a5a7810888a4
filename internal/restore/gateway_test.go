package restore

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/gateway"
)

// behindGateway makes the destination one that the gateway serves, itself or by rclone, and starts that.
func (w *world) behindGateway(rclone bool) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	file := filepath.Join(w.dir, "etc/web.toml")
	text, err := os.ReadFile(file)
	w.check(err)
	changed := strings.Replace(string(text), "[module.wiki1]", "gateway = true\n[gateway]\nurl = \"http://"+l.Addr().String()+"\"\n[module.wiki1]", 1)
	if rclone {
		w.write("rclone.conf", "[archive]\ntype = alias\nremote = "+w.prefix+"\n")
		changed = strings.Replace(changed, "repository = \""+w.prefix+"\"", "repository = \"rclone:archive:\"\nrclone-config = \""+w.dir+"/rclone.conf\"", 1)
	}
	w.check(os.WriteFile(file, []byte(changed), 0o600))
	w.Config = config.Load(w.Paths.Config, nil)
	for _, p := range w.Config.Errors() {
		w.t.Fatal(p)
	}
	server := &gateway.Server{Paths: w.Paths, Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler)}
	w.check(os.MkdirAll(w.Paths.State, 0o700))
	front := &http.Server{Handler: server}
	go front.Serve(l)
	w.t.Cleanup(func() { front.Close(); server.Close() })
}

// Through the gateway, what others have left is found and read, with tokens that are gone in the end.
func TestThroughGateway(t *testing.T) {
	for _, kind := range []string{"local", "rclone"} {
		t.Run(kind, func(t *testing.T) { t.Parallel(); throughGateway(t, kind == "rclone") })
	}
}

func throughGateway(t *testing.T, rclone bool) {
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "CREATE"})
	w.save(others, "web2", "r2", nil)
	w.write("repo/dokuwiki/"+others+".json", `{"module":"wiki7","ui_name":"Far","node":"web7","success":true}`)
	w.behindGateway(rclone)
	if rclone {
		// The gateway answers 503 to a second request that comes before the first one has made the connection to a new rclone.
		w.plan(nil).Close()
	}
	list, err := w.List(t.Context(), ListOptions{})
	if err != nil || len(list.Repositories) != 2 || len(list.Notes)+len(list.Errors) != 0 {
		t.Fatalf("List = %+v, %v", list, err)
	}
	own, far := list.Repositories[0], list.Repositories[1]
	if own.Origin != Installed || far.Origin != Foreign || far.Module != "wiki7" || far.Node != "web7" || far.UIName != "Far" || len(far.Points) != 1 || own.Error+far.Error != "" {
		t.Errorf("List = %+v", list.Repositories)
	}
	at, err := w.Find(t.Context(), "dokuwiki/5792", "", "")
	w.check(err)
	p := w.plan(func(r *Request) { r.Repository, r.Verify = at, true })
	result, err := w.Restore(t.Context(), p, quietly)
	if err != nil || !result.Verified {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	sameTree(t, tree(t, filepath.Join(w.dir, "out/new", w.data, "data")), tree(t, filepath.Join(w.data, "data")))
	p.Close() // and again, in the end
	for _, dir := range []string{w.Paths.Tokens, filepath.Join(filepath.Dir(w.Paths.Tokens), "attempts")} {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%d files are left in %s", len(left), dir)
		}
	}
}

// A gateway that is not there is one sentence and a remedy, at once.
func TestNoGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.behindGateway(false)
	w.Config.Gateway.URL = "http://127.0.0.1:1"
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := w.List(ctx, ListOptions{})
	if err == nil || !strings.Contains(err.Error(), "the gateway cannot be reached") || !strings.Contains(Remedy(err), "backup-gateway.socket") {
		t.Errorf("List = %v", err)
	}
	p, err := w.Check(ctx, w.request(nil))
	w.check(err)
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0].Remedy, "backup-gateway.socket") {
		t.Errorf("problems = %+v", p.Problems)
	}
}
