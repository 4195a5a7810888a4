// Package man writes manual pages in the macros of man(7), so that man-db and mandoc have nothing to say against them.
package man

import (
	"fmt"
	"strings"
	"time"
)

// lineWidth is how long a line of a page's source may be; mandoc(1) wants 80 at most.
const lineWidth = 78

// Page is a manual page that is being written. Texts are plain; what is to be set in another font goes through Bold or Italic.
type Page struct {
	out   strings.Builder
	begun bool // a section that has no text yet: it needs no request for a paragraph
}

// New begins a page. The time is that of what it describes, so that the same source makes the same page.
func New(name string, section int, changed time.Time, version string) *Page {
	p := new(Page)
	p.line(fmt.Sprintf(".TH %s %d %s %s %s", quote(strings.ToUpper(name)), section, changed.UTC().Format(time.DateOnly),
		quote("sdbackup "+version), quote("sdbackup")))
	return p
}

// String returns the page's source.
func (p *Page) String() string { return p.out.String() }

func (p *Page) line(s string) { p.out.WriteString(s + "\n"); p.begun = false }

func (p *Page) heading(s string) { p.line(s); p.begun = true }

func (p *Page) gap() {
	if !p.begun {
		p.line(".PP")
	}
}

// Text is a text with its fonts, ready to be set.
type Text string

// Plain is a text as it is.
func Plain(s string) Text { return Text(escape(s)) }

// Bold is a text to be typed as it stands.
func Bold(s string) Text { return Text(`\fB` + escape(s) + `\fR`) }

// Italic is a text that stands for another one.
func Italic(s string) Text { return Text(`\fI` + escape(s) + `\fR`) }

// Join puts texts one after another.
func Join(texts ...Text) Text {
	var all strings.Builder
	for _, t := range texts {
		all.WriteString(string(t))
	}
	return Text(all.String())
}

// Section begins a section.
func (p *Page) Section(title string) { p.heading(".SH " + quote(title)) }

// Subsection begins a part of a section.
func (p *Page) Subsection(title string) { p.heading(".SS " + quote(title)) }

// Name is the section that whatis(1) reads.
func (p *Page) Name(name, what string) {
	p.Section("NAME")
	p.fill(Join(Plain(name), ` \- `, Plain(what)))
}

// Paragraph writes a paragraph.
func (p *Page) Paragraph(text Text) {
	p.gap()
	p.fill(text)
}

// Item writes a text that hangs below its tag.
func (p *Page) Item(tag, text Text) {
	p.line(".TP")
	p.line(protect(string(tag)))
	if text == "" {
		text = `\&`
	}
	p.fill(text)
}

// Bullet writes an item of a list.
func (p *Page) Bullet(text Text) {
	p.line(`.IP \(bu 3`)
	p.fill(text)
}

// Code writes lines as they are.
func (p *Page) Code(lines ...string) {
	p.gap()
	p.line(".RS 4")
	p.line(".EX")
	for _, line := range lines {
		p.line(protect(escape(line)))
	}
	p.line(".EE")
	p.line(".RE")
}

// Lines writes texts, each on a line of its own.
func (p *Page) Lines(texts ...Text) {
	p.gap()
	p.line(".nf")
	for _, t := range texts {
		p.line(protect(string(t)))
	}
	p.line(".fi")
}

// fill writes a text whose lines may be broken anywhere.
func (p *Page) fill(text Text) {
	line := ""
	for word := range strings.FieldsSeq(string(text)) {
		if line != "" && len(line)+1+len(word) > lineWidth {
			p.line(protect(line))
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		p.line(protect(line))
	}
}

// protect keeps a line from being taken for a request.
func protect(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// special are characters that roff reads or prints as others: a hyphen that can be copied, straight quotes.
var special = map[rune]string{'\\': `\(rs`, '-': `\-`, '\'': `\(aq`, '`': `\(ga`, '^': `\(ha`, '~': `\(ti`, '"': `\(dq`, '\t': "    "}

func escape(s string) string {
	var out strings.Builder
	for _, r := range s {
		switch replacement, ok := special[r]; {
		case ok:
			out.WriteString(replacement)
		case r > 0x7e:
			fmt.Fprintf(&out, `\[u%04X]`, r)
		case r < ' ' && r != '\n':
			// Nothing that a terminal could take for a command.
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// quote writes a text as one argument of a request.
func quote(s string) string { return `"` + escape(s) + `"` }
