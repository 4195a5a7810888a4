package destination

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sdbackup/internal/config"
	"sdbackup/internal/nodecopy"
)

// copyOf is a copy of a node with the store's destinations.
func copyOf(t *testing.T, s *Store) nodecopy.Copy {
	t.Helper()
	paths := config.Paths{Config: []string{s.Dir}, State: t.TempDir()}
	cfg := config.Load(paths.Config, nil)
	cfg.Node.UUID = "0b55ea4c-0f6a-4c4e-9f0a-6d8f3f1c2a11"
	c, err := nodecopy.Collect(t.Context(), cfg, paths, func(string) string { return "" }, "test")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A copy of a node brings the same destinations as a document.
func TestImportFromNode(t *testing.T) {
	from, to := testStore(t), testStore(t)
	for _, r := range requests(t) {
		if r.ID != "local-gateway" { // it is the same place as local
			mustAdd(t, from, r)
		}
	}
	doc, err := FromNode(copyOf(t, from))
	if err != nil || len(doc.LeftOut) > 0 {
		t.Fatalf("FromNode: %v, left out %v", err, doc.LeftOut)
	}
	exported, err := from.Export(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(doc.Destinations, exported.Destinations) {
		t.Errorf("of the copy:\n%+v\nwant what Export gives:\n%+v", doc.Destinations, exported.Destinations)
	}
	done, err := to.Import(t.Context(), doc, false)
	if err != nil || len(done.Added) != len(doc.Destinations) || len(done.LeftOut) > 0 {
		t.Fatalf("Import = %+v, %v", done, err)
	}
	got := tree(t, to.Dir)
	for name, text := range tree(t, from.Dir) {
		if text = strings.ReplaceAll(text, from.Dir, to.Dir); got[name] != text {
			t.Errorf("%s is\n%s\nwant\n%s", name, got[name], text)
		}
	}
}

// What stands in the way of one keeps none of the others away, and nothing is written over.
func TestImportFromNodeConflicts(t *testing.T) {
	from, to := testStore(t), testStore(t)
	var all []Request
	for _, id := range []string{"local", "b2", "azure"} {
		all = append(all, requests(t)[id])
	}
	for _, r := range all {
		mustAdd(t, from, r)
	}
	c := copyOf(t, from)
	missing := filepath.Join(from.Dir, "secret", all[1].ID+".password")
	c.Files = slices.DeleteFunc(c.Files, func(f nodecopy.File) bool { return f.Path == missing })
	const mine = "/srv/mine"
	if err := os.MkdirAll(to.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(to.Dir, "mine.toml")
	text := "[destination." + all[0].ID + "]\nrepository = \"" + mine + "\"\npassword-file = \"/dev/null\"\n"
	if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	doc, err := FromNode(c)
	if err != nil {
		t.Fatal(err)
	}
	done, err := to.Import(t.Context(), doc, false)
	if err != nil || !slices.Equal(done.Added, []string{all[2].ID}) || len(done.LeftOut) != 2 {
		t.Fatalf("Import = %+v, %v; want the third alone", done, err)
	}
	for _, l := range done.LeftOut {
		want := map[string]string{all[0].ID: "is there already", all[1].ID: "is not in the copy"}[l.ID]
		if want == "" || !strings.Contains(l.Reason, want) {
			t.Errorf("left out: %+v; want %q", l, want)
		}
	}
	if data, err := os.ReadFile(own); err != nil || string(data) != text {
		t.Errorf("what was here is %q, %v", data, err)
	}
	if _, err := doc.Only([]string{"no-such"}); !errors.As(err, new(*UsageError)) {
		t.Errorf("Only of one that is not there: %v", err)
	}
	if some, err := doc.Only([]string{all[2].ID}); err != nil || len(some.Destinations) != 1 || len(some.LeftOut) != 0 || len(doc.Destinations) != 2 {
		t.Errorf("Only = %d destinations, %v; %v", len(some.Destinations), some.LeftOut, err)
	}
}

// A copy is read where it is one, and a document where it is not.
func TestNodeCopyThroughFile(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, requests(t)["local"])
	var file bytes.Buffer
	if err := copyOf(t, s).Encrypt(&file, []byte("x")); err != nil {
		t.Fatal(err)
	}
	c, err := nodecopy.Decrypt(&file, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := FromNode(c)
	if err != nil || len(doc.Destinations) != 1 {
		t.Errorf("%+v, %v", doc, err)
	}
}
