package restore

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"strings"
	"unicode/utf8"

	"sdbackup/internal/config"
	"sdbackup/internal/restic"
)

// maxSampled bounds how many files a sample has: each is named on restic's command line, and sought among all that a snapshot holds.
const maxSampled = 1000

// lot is a file that may be in a sample: those with the lowest numbers are.
type lot struct {
	number uint64
	node   restic.Node
	of     int // index of its snapshot
}

// lots draws files at random, until they have as many bytes as are wanted. It is a heap, with the highest number on top.
type lots struct {
	list  []lot
	bytes uint64
}

func (l *lots) Len() int           { return len(l.list) }
func (l *lots) Less(i, j int) bool { return l.list[i].number > l.list[j].number }
func (l *lots) Swap(i, j int)      { l.list[i], l.list[j] = l.list[j], l.list[i] }
func (l *lots) Push(x any)         { l.list = append(l.list, x.(lot)) }
func (l *lots) Pop() any {
	last := l.list[len(l.list)-1]
	l.list = l.list[:len(l.list)-1]
	return last
}

// draw gives a file its number, and lets those go that are not needed any more: what is left are always the first files of a random order of
// all, up to the one that makes them enough.
func (l *lots) draw(one lot, wanted uint64) {
	heap.Push(l, one)
	l.bytes += one.node.Size
	for len(l.list) > maxSampled || len(l.list) > 1 && l.bytes-l.list[0].node.Size >= wanted {
		l.bytes -= heap.Pop(l).(lot).node.Size
	}
}

// sample picks regular files of a point at random, dumps among them, with about so many bytes. A file with more bytes than that is picked only
// where there is no smaller one. Without a file that can be picked everything is.
func sample(ctx context.Context, from source, p Point, m *config.Module, bytes int64) ([]part, error) {
	var fitting, larger lots
	wanted := uint64(bytes)
	tops := make([]map[string]bool, len(p.Snapshots))
	for i, s := range p.Snapshots {
		tops[i] = map[string]bool{}
		err := from.list(ctx, s, nil, func(n restic.Node) error {
			top, _, _ := strings.Cut(n.Path[1:], "/")
			tops[i][top] = true
			// A name that is no UTF-8 is not listed as it is, and cannot be asked for.
			if n.Type != "file" || s.Dump == "" && strings.ContainsRune(n.Path, utf8.RuneError) {
				return nil
			}
			among := &fitting
			if n.Size > wanted {
				among = &larger
			}
			among.draw(lot{rand.Uint64(), n, i}, wanted)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	picked := fitting.list
	if len(picked) == 0 {
		picked = larger.list
	}
	if len(picked) == 0 {
		return scan(ctx, from, p, nil, m, false, nil)
	}
	var parts []part
	for i, s := range p.Snapshots {
		one := part{Snapshot: s, has: counts{tops: tops[i]}}
		for _, l := range picked {
			if l.of != i {
				continue
			}
			one.has.count(l.node, true)
			if s.Dump != "" {
				one.all = true
				continue
			}
			one.paths, one.include = append(one.paths, l.node.Path), append(one.include, l.node.Path)
		}
		if one.has.Files > 0 {
			parts = append(parts, one)
		}
	}
	return parts, nil
}
