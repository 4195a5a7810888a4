package run

import "testing"

func TestFate(t *testing.T) {
	for want, vars := range map[string]map[string]string{
		"":                           {"SERVICE_RESULT": "success"},
		"result signal, killed KILL": {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"},
	} {
		if got := Fate(func(key string) string { return vars[key] }); got != want {
			t.Errorf("Fate(%v) = %q; want %q", vars, got, want)
		}
	}
}

