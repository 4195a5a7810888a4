package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/schollz/progressbar/v3"
)

// Progress shows on a terminal how far things are: one line with a bar over all that is under way. Elsewhere it shows
// nothing. Its methods may be called from several goroutines.
type Progress struct {
	mu    sync.Mutex
	bar   *progressbar.ProgressBar
	items map[string]item
}

type item struct {
	percent     float64
	done, total uint64
}

// NewProgress returns a Progress on the standard error of env.
func NewProgress(env *Env) *Progress {
	p := &Progress{items: map[string]item{}}
	columns := Width(env.Stderr)
	if columns == 0 || env.Getenv("TERM") == "dumb" {
		return p
	}
	p.bar = newBar(env.Stderr, env.Getenv("NO_COLOR") == "")
	return p
}

func newBar(w io.Writer, colour bool) *progressbar.ProgressBar {
	return progressbar.NewOptions(1000,
		progressbar.OptionSetWriter(w), progressbar.OptionEnableColorCodes(colour), progressbar.OptionSetWidth(20),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
}

// Update says how far the item of that label is; percent counts from 0 to 100.
func (p *Progress) Update(label string, percent float64, done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.items[label] = item{percent, done, total}
	p.draw()
}

// Remove says that the item is done.
func (p *Progress) Remove(label string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.items, label)
	p.draw()
}

// Done takes the line from the terminal.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear() // a terminal that is gone needs no clearing
		p.bar = nil
	}
}

func (p *Progress) draw() {
	if p.bar == nil || len(p.items) == 0 {
		return
	}
	sum := 0.0
	for _, i := range p.items {
		sum += i.percent
	}
	p.bar.Describe(describe(p.items))
	_ = p.bar.Set(int(10 * sum / float64(len(p.items))))
}

// describe is the text before the bar, short enough to leave room for it in 80 columns.
func describe(items map[string]item) string {
	labels := make([]string, 0, len(items))
	for label := range items {
		labels = append(labels, label)
	}
	slices.Sort(labels)
	var parts []string
	for _, label := range labels {
		i := items[label]
		part := fmt.Sprintf("%s %.0f%%", label, i.percent)
		if i.total > 0 && len(labels) == 1 {
			part += fmt.Sprintf(" (%s of %s)", Bytes(i.done), Bytes(i.total))
		}
		parts = append(parts, part)
	}
	return cut(clean(strings.Join(parts, ", ")), 45)
}
