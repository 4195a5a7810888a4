package filebackup

import (
	"fmt"
	"testing"
)

// What the steps of a history come to is what each version holds.
func TestHistory(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SnapshotInterval = 2
	for i := range 4 {
		f.write("changes", fmt.Sprint("content ", i))
		f.write(fmt.Sprint("folder", i, "/only"), fmt.Sprint(i))
		f.remove(fmt.Sprint("folder", i-1))
		f.write("stays", "stays")
		f.backup()
	}
	r := f.open()
	held := map[string]*Entry{}
	n := 0
	err := r.History(t.Context(), func(v Version, steps []Step) error {
		n++
		for _, s := range steps {
			if s.Before != nil {
				if held[s.Before.Path] == nil {
					t.Errorf("%s was not there before %s", s.Before.Path, v.ID)
				}
				delete(held, s.Before.Path)
			}
			if s.After != nil {
				held[s.After.Path] = s.After
			}
		}
		list, err := r.Files(t.Context(), v)
		if len(list) != len(held) {
			t.Errorf("version %d holds %d entries; want %d", n, len(held), len(list))
		}
		for _, e := range list {
			if h := held[e.Path]; h == nil || h.Hash != e.Hash || h.Size != e.Size {
				t.Errorf("version %d: %s is %+v; want %+v", n, e.Path, h, e)
			}
		}
		return err
	})
	if err != nil || n != 4 {
		t.Errorf("%d versions, %v", n, err)
	}
}
