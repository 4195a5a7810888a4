package module

import (
	"cmp"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
)

// A check finds a pack in which one byte was flipped, if it reads it, and says that nothing is there where nothing is.
func TestCheck(t *testing.T) {
	t.Parallel()
	p := newPlan(t)
	random := make([]byte, 1<<20)
	rand.Read(random)
	if err := os.WriteFile(filepath.Join(p.Directory, "data/random"), random, 0o600); err != nil {
		t.Fatal(err)
	}
	check := p
	check.MayInit, check.Check = false, &Check{}
	r, _ := attemptOf(t, check)
	want(t, r, status.Failed, "to check")
	r, _ = attemptOf(t, p)
	want(t, r, status.Success, "")
	for _, c := range []Check{{}, {Number: 1, Of: 1}} {
		check.Check = &c
		r, log := attemptOf(t, check)
		want(t, r, status.Success, "")
		if r.Check == nil || *r.Check != status.Check(c) || r.Snapshot != "" || resticCalls(log) != 1 {
			t.Errorf("result = %+v, want that of check %+v, in one call of restic:\n%s", r, c, log)
		}
	}
	packs, err := filepath.Glob(p.Repository + "/data/*/*")
	if err != nil || len(packs) == 0 {
		t.Fatalf("packs = %v, %v", packs, err)
	}
	size := func(pack string) int64 {
		info, err := os.Stat(pack)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	pack := slices.MaxFunc(packs, func(a, b string) int { return cmp.Compare(size(a), size(b)) }) // the others hold trees, which every check reads
	data, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/3] ^= 1
	if err := os.Chmod(pack, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pack, data, 0o600); err != nil {
		t.Fatal(err)
	}
	check.Check = &Check{}
	r, _ = attemptOf(t, check)
	want(t, r, status.Success, "") // nothing of the data was read
	check.Check = &Check{Number: 1, Of: 1}
	r, _ = attemptOf(t, check)
	want(t, r, status.Failed, "the repository has errors")
	if r.Hint == "" || r.Retry {
		t.Errorf("hint %q, retry %v; want what to do, and no other attempt", r.Hint, r.Retry)
	}
	if locks, _ := os.ReadDir(p.Repository + "/locks"); len(locks) > 0 {
		t.Errorf("locks are left: %v", locks)
	}
}

// In so many checks all of the data is read; what was not found good is read again.
func TestNextCheck(t *testing.T) {
	c := config.Check{ReadDataSubset: 3}
	for checked, want := range map[int]int{0: 1, 1: 2, 2: 3, 3: 1, 7: 2} {
		if got := nextCheck(c, &status.Module{Checked: checked}); got.Number != want || got.Of != 3 {
			t.Errorf("after part %d: %+v; want part %d of 3", checked, got, want)
		}
	}
	if got := nextCheck(c, nil); got.Number != 1 {
		t.Errorf("the first check reads part %d", got.Number)
	}
	if got := nextCheck(config.Check{}, &status.Module{Checked: 2}); *got != (Check{}) {
		t.Errorf("without a subset: %+v", got)
	}
}
