package restserver

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// syncs lets those who wait for an fsync of the same folder at the same time share one. Each needs one that begins after what it has
// changed in the folder: so one that runs is of no use to it, but the next is, and it is the same one for all who come meanwhile.
type syncs struct {
	mu      sync.Mutex
	folders map[folderID]*folderSyncs
}

// folderID tells folders apart, whatever their paths.
type folderID struct{ dev, ino uint64 }

// folderSyncs is there while somebody waits.
type folderSyncs struct {
	next *folderSync // has not begun; nil: nobody waits for it
}

type folderSync struct {
	folder *os.File // of one who waits, so it stays open
	done   chan struct{}
	err    error
}

// sync returns after an fsync of the folder that has begun after the call. The function that does it is an argument for tests.
func (s *syncs) sync(id folderID, folder *os.File, fsync func(*os.File) error) error {
	s.mu.Lock()
	if s.folders == nil {
		s.folders = make(map[folderID]*folderSyncs)
	}
	f := s.folders[id]
	if f == nil {
		f = new(folderSyncs)
		s.folders[id] = f
		go s.run(id, f, fsync)
	}
	if f.next == nil {
		f.next = &folderSync{folder: folder, done: make(chan struct{})}
	}
	mine := f.next
	s.mu.Unlock()
	<-mine.done
	return mine.err
}

// run does one sync after the other until nobody waits.
func (s *syncs) run(id folderID, f *folderSyncs, fsync func(*os.File) error) {
	for {
		s.mu.Lock()
		now := f.next
		if f.next = nil; now == nil {
			delete(s.folders, id)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		now.err = fsync(now.folder)
		close(now.done)
	}
}

// syncFolder makes what was changed in a folder survive a crash.
func (s *Store) syncFolder(folder *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(folder.Fd()), &st); err != nil {
		return fmt.Errorf("examine folder %s: %w", folder.Name(), err)
	}
	return s.shared().syncs.sync(folderID{uint64(st.Dev), st.Ino}, folder, s.fsync) //nolint:unconvert // 32 bits on some systems
}

// fsync is fsync(2). Some file systems of the network have none: that is said once, and left at that.
func (s *Store) fsync(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		s.shared().warnFsync.Do(func() {
			if s.Log != nil {
				s.Log.Warn("the file system cannot sync: what is stored could be lost in a crash", "path", f.Name())
			}
		})
		return nil
	}
	return err
}
