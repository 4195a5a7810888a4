package promfile

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// Format returns the text of the file, in Prometheus' text exposition format 0.0.4.
func Format(s Sample) ([]byte, error) {
	id, name := label("id", s.ID), label("name", s.Name)
	families := familiesOf(backupMetrics, s, id, name)
	families = append(families, moduleFamilies(moduleMetrics, s.Modules, id, name)...)
	if s.HasCheck {
		families = append(families, familiesOf(checkMetrics, s, id, name)...)
		families = append(families, moduleFamilies(moduleCheckMetrics, s.Checks, id, name)...)
	}
	families = append(families, moduleFamilies(moduleDrillMetrics, s.Drills, id, name)...)
	b := bytes.NewBufferString(header)
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(b, f); err != nil {
			return nil, fmt.Errorf("%s: %w", f.GetName(), err)
		}
	}
	return b.Bytes(), nil
}

func familiesOf(metrics []metric[Sample], s Sample, labels ...*dto.LabelPair) (families []*dto.MetricFamily) {
	for _, m := range metrics {
		if v, ok := m.value(s); ok {
			families = append(families, m.family(m.series(v, labels...)))
		}
	}
	return families
}

func moduleFamilies[T any](metrics []metric[*T], all map[string]*T, id, name *dto.LabelPair) (families []*dto.MetricFamily) {
	modules := slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(id string) bool { return all[id] == nil })
	for _, m := range metrics {
		var series []*dto.Metric
		for _, module := range modules {
			if v, ok := m.value(all[module]); ok {
				series = append(series, m.series(v, id, label("module", module), name))
			}
		}
		if len(series) > 0 {
			families = append(families, m.family(series...))
		}
	}
	return families
}

func (m metric[T]) family(series ...*dto.Metric) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &m.kind, Metric: series}
}

func (m metric[T]) series(v float64, labels ...*dto.LabelPair) *dto.Metric {
	if m.kind == counter {
		return &dto.Metric{Label: labels, Counter: &dto.Counter{Value: &v}}
	}
	return &dto.Metric{Label: labels, Gauge: &dto.Gauge{Value: &v}}
}

// label makes the value valid UTF-8: expfmt writes what is not, and then its own parser refuses the whole file.
func label(name, value string) *dto.LabelPair {
	value = strings.ToValidUTF8(value, "\uFFFD")
	return &dto.LabelPair{Name: &name, Value: &value}
}
