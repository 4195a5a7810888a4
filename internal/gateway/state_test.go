package gateway

import (
	"slices"
	"strings"
	"testing"

	"sdbackup/internal/config"
	"sdbackup/internal/token"
)

// A change of a destination takes effect at once, whatever of it is changed; what has nothing to do with it leaves its rclone alone.
func TestReconfigured(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "")
			module, all := f.as("wiki1", token.Add, own), f.as("wiki1", token.All, own)
			top := "/archive/" + own
			f.rest(200, module, "POST", top+"/?create=true", "")
			f.rest(200, module, "POST", top+"/data/"+name("x"), "x")
			before := children(t)
			f.reconfigure("[module.wiki2]", "[module.wiki3]\ntype = \"other\"\nuuid = \"5792c7db-9450-4bd3-84a3-034cd0087839\"\ninclude = [\"/srv\"]\n[module.wiki2]")
			f.reconfigure("node.name", "# everything moves by a line\nnode.name")
			f.rest(200, module, "GET", top+"/data/"+name("x"), "")
			if after := children(t); !slices.Equal(after, before) {
				t.Errorf("children = %v; want %v, nothing of the destination has changed", after, before)
			}

			f.reconfigure("gateway = true\n", "gateway = true\nkeep-deleted = \"14d\"\n")
			f.rest(200, all, "DELETE", top+"/data/"+name("x"), "")
			if left := f.tree("repo/" + config.HoldingArea); !strings.Contains(left, name("x")) {
				t.Errorf("in the holding area = %q; want what was deleted", left)
			}
			f.reconfigure("gateway = true\n", "gateway = true\nmax-size = 3\n")
			f.rest(507, module, "POST", top+"/data/"+name("four"), "four")
			f.reconfigure("max-size = 3", "max-size = 5")
			f.rest(200, module, "POST", top+"/data/"+name("four"), "four")
		})
	}
}
