package filebackup

import (
	"errors"
	"fmt"
	"testing"
)

// With another password nothing is stored, whatever of the bucket is encrypted, and with or without what this machine knows.
func TestOtherPassword(t *testing.T) {
	for name, words := range map[string][2][]string{"all": {{pipeEncrypt}, {pipeEncrypt, pipeCompress}}, "files": {nil, {pipeEncrypt}}, "metadata": {{pipeCompress, pipeEncrypt}, nil}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.c.MetaPipeline, f.c.FilePipeline = words[0], []Pipeline{{"*", words[1]}}
			f.c.Crypto.Password = "right"
			f.write("a", "one")
			f.backup()
			for range 2 {
				f.write("a", "two")
				f.c.Crypto.Password = "wrong"
				var wrong *PasswordError
				if s, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.As(err, &wrong) || !errors.Is(err, ErrDecrypt) {
					t.Errorf("with another password: %+v, %v", s, err)
				}
				if n := len(f.versions()); n != 1 {
					t.Errorf("%d versions", n)
				}
				f.c.Crypto.Password = "right"
				k, err := f.open().c.loadCache() // an older one knows of no key
				if err != nil {
					t.Fatal(err)
				}
				head := k.cacheHead
				head.Key = ""
				if err := k.save(f.open().c, head, nil); err != nil {
					t.Fatal(err)
				}
			}
			f.backup()
			f.same(f.dir, f.download("latest"))
			k, err := f.open().c.loadCache()
			if err != nil || k.Key == "" {
				t.Errorf("%+v, %v", k, err)
			}
		})
	}
}

// What a run with another password stored before it died is not used.
func TestOtherPasswordOfTheDead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pipelines("all")
	f.c.Parallel = 1
	for i := range 5 {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	f.c.Crypto.Password = "former"
	steps := f.dieAt(6)
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errKilled) || stored(*steps) == 0 {
		t.Fatalf("%v, %q", err, *steps)
	}
	f.c.Fault = nil
	f.c.Crypto.Password = "present"
	if err := f.open().s.remove(t.Context(), "gc_log", ""); err != nil { // which cannot be read with this one
		t.Fatal(err)
	}
	if s := f.backup(); s.Resumed > 0 || s.Uploaded != 5 {
		t.Errorf("%+v", s)
	}
	f.same(f.dir, f.download("latest"))
}
