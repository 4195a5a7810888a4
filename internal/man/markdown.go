package man

import (
	"fmt"
	"regexp"
	"strings"
)

// Markdown writes what the manuals in docs/ are written in: headings, paragraphs, lists, tables and indented code. The title is left out, a
// page has its name. A table becomes a list that hangs below its first column. What it does not know is an error and never a page with
// markup in it.
func (p *Page) Markdown(text string) error {
	for _, block := range blocks(text) {
		if err := p.block(block); err != nil {
			return fmt.Errorf("%q: %w", block[0], err)
		}
	}
	return nil
}

// blocks cuts a text at its empty lines, but not within indented code.
func blocks(text string) [][]string {
	var all [][]string
	var block []string
	end := func() {
		if block != nil {
			all = append(all, block)
		}
		block = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		if line == "" {
			end()
			continue
		}
		if isCode(line) && block == nil && len(all) > 0 && isCode(all[len(all)-1][0]) {
			last := len(all) - 1
			block, all = append(all[last], ""), all[:last]
		}
		block = append(block, line)
	}
	end()
	return all
}

func isCode(line string) bool { return strings.HasPrefix(line, "    ") }

func (p *Page) block(lines []string) error {
	first := lines[0]
	heading := strings.TrimLeft(first, "#")
	switch level := len(first) - len(heading); {
	case level > 0 && len(lines) > 1:
		return fmt.Errorf("a heading without an empty line below it")
	case level == 1:
		return nil
	case level == 2 && !strings.Contains(first, "["): // names of tables are what is to be typed
		p.Section(strings.ToUpper(strings.TrimSpace(heading)))
		return nil
	case level == 2:
		p.Section(strings.TrimSpace(heading))
		return nil
	case level == 3:
		p.Subsection(strings.TrimSpace(heading))
		return nil
	case level > 3:
		return fmt.Errorf("a heading of level %d", level)
	case isCode(first):
		for i := range lines {
			lines[i] = strings.TrimPrefix(lines[i], "    ")
		}
		p.Code(lines...)
		return nil
	case strings.HasPrefix(first, "|"):
		return p.table(lines)
	case strings.HasPrefix(first, "- "):
		return p.list(lines)
	case strings.HasPrefix(first, ">") || strings.HasPrefix(first, "```") || strings.HasPrefix(first, "<") || strings.HasPrefix(first, "!"):
		return fmt.Errorf("markup that is not known here")
	}
	text, err := inline(strings.Join(lines, " "))
	p.Paragraph(text)
	return err
}

func (p *Page) list(lines []string) error {
	var items []string
	for _, line := range lines {
		if item, ok := strings.CutPrefix(line, "- "); ok {
			items = append(items, item)
			continue
		}
		items[len(items)-1] += " " + strings.TrimSpace(line)
	}
	for _, item := range items {
		text, err := inline(item)
		if err != nil {
			return err
		}
		p.Bullet(text)
	}
	return nil
}

// table writes each row as an item: the first column is its tag, the last one its text. What is between them stands in brackets before the
// text; a default is called one, and so is what is counted.
func (p *Page) table(lines []string) error {
	if len(lines) < 3 || strings.Trim(lines[1], "|- :") != "" {
		return fmt.Errorf("a table without a heading")
	}
	heading := cells(lines[0])
	for _, line := range lines[2:] {
		row := cells(line)
		if len(row) != len(heading) || len(row) < 2 {
			return fmt.Errorf("a row of %d cells in a table of %d: %s", len(row), len(heading), line)
		}
		texts := make([]Text, len(row))
		for i, cell := range row {
			var err error
			if texts[i], err = inline(cell); err != nil {
				return err
			}
		}
		var between []Text
		for i, text := range texts[1 : len(texts)-1] {
			switch name, value := heading[i+1], row[i+1]; {
			case value == "" || value == "none":
			case name == "default" && !strings.HasPrefix(value, "required"), name == "times":
				between = append(between, Join(Plain(name+": "), text))
			default:
				between = append(between, text)
			}
		}
		last := texts[len(texts)-1]
		if len(between) > 0 {
			note := between[0]
			for _, text := range between[1:] {
				note = Join(note, "; ", text)
			}
			if last = Join("(", note, ") ", last); row[len(row)-1] == "" {
				last = Join("(", note, ")")
			}
		}
		p.Item(texts[0], last)
	}
	return nil
}

func cells(row string) []string {
	parts := strings.Split(strings.Trim(row, "|"), "|")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// markup is a link, whose label may be code; code; or what is bold.
var markup = regexp.MustCompile("\\[(`[^`]+`|[^]`]+)\\]\\(([^)]*)\\)|`([^`]+)`|\\*\\*([^*]+)\\*\\*")

// inline sets the fonts within a text. Of a link, its address stays where it leads out of the manuals.
func inline(s string) (Text, error) {
	var all []Text
	for s != "" {
		at := markup.FindStringSubmatchIndex(s)
		before := s
		if at != nil {
			before = s[:at[0]]
		}
		if i := strings.IndexAny(before, "`*"); i >= 0 {
			return "", fmt.Errorf("markup that is not known here: %s", before[i:])
		}
		all = append(all, Plain(before))
		if at == nil {
			break
		}
		group := func(i int) string {
			if at[2*i] < 0 {
				return ""
			}
			return s[at[2*i]:at[2*i+1]]
		}
		switch label, address := group(1), group(2); {
		case label == "":
			all = append(all, Bold(group(3)+group(4))) // one of them
		case strings.Contains(address, "://"):
			all = append(all, Plain(label+" ("+address+")"))
		case strings.HasPrefix(label, "`"):
			all = append(all, Bold(strings.Trim(label, "`")))
		default:
			all = append(all, Plain(label))
		}
		s = s[at[1]:]
	}
	return Join(all...), nil
}
