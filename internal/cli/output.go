package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

// None stands in a table for what there is not, or nobody knows, as systemctl has it.
const None = "-"

// Count is a number of things, as in "1 object" and "2 objects".
func Count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}

// JSON writes v as indented JSON.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Width is the number of columns of a terminal; 0 when w is none.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}

// Table writes rows, of no more cells than the header has, in columns two blanks apart. On a terminal the widest columns are cut, with an ellipsis, until a row fits.
func Table(w io.Writer, header []string, rows [][]string) error {
	return table(w, header, rows, Width(w))
}

// table is Table for a terminal of so many columns; 0 is no terminal.
func table(w io.Writer, header []string, rows [][]string, limit int) error {
	all := append([][]string{header}, rows...)
	widths := make([]int, len(header))
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], uniseg.StringWidth(clean(cell)))
		}
	}
	if limit > 0 {
		shrink(widths, header, limit)
	}
	var b strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			cell = cut(clean(cell), widths[i])
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-uniseg.StringWidth(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shrink takes columns from the widest until the row fits, but leaves every header whole.
func shrink(widths []int, header []string, limit int) {
	total := -2
	for _, n := range widths {
		total += n + 2
	}
	for total > limit {
		widest := -1
		for i, n := range widths {
			if n > max(4, uniseg.StringWidth(header[i])) && (widest < 0 || n > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
		total--
	}
}

// cut shortens text to n columns of a terminal.
func cut(s string, n int) string {
	if uniseg.StringWidth(s) <= n {
		return s
	}
	if n < 1 {
		return ""
	}
	var b strings.Builder
	for state, columns := -1, 0; s != ""; {
		var cluster string
		var wide int
		cluster, s, wide, state = uniseg.FirstGraphemeClusterInString(s, state)
		if columns += wide; columns > n-1 {
			break
		}
		b.WriteString(cluster)
	}
	return b.String() + "…"
}

// clean makes text safe for one line of a terminal: valid UTF-8, and nothing in it that breaks lines, controls the terminal or
// turns the direction of writing.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Bytes writes a size for people, in powers of 1024.
func Bytes(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= 1023.95 && unit < 6 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, " KMGTPE"[unit])
}

// Duration writes a span for people with its two largest units, as systemctl does: "3min 20s", "2d 4h".
func Duration(d time.Duration) string {
	if d < 0 {
		d = -d
	}
	if d < time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	d = d.Round(time.Second)
	var parts []string
	for _, u := range []struct {
		size time.Duration
		name string
	}{{365 * 24 * time.Hour, "y"}, {7 * 24 * time.Hour, "w"}, {24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if n := d / u.size; n > 0 {
			parts = append(parts, fmt.Sprintf("%d%s", n, u.name))
			d -= n * u.size
		} else if len(parts) > 0 {
			break
		}
		if len(parts) == 2 {
			break
		}
	}
	return strings.Join(parts, " ")
}

// Line makes a text of anywhere safe for one line of a terminal.
func Line(s string) string { return clean(s) }
