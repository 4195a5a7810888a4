package restserver

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts events, with the names and labels of rest-server.
type metrics struct {
	handler http.Handler
	count   map[Kind]*prometheus.CounterVec
	bytes   map[Kind]*prometheus.CounterVec
}

// newRegistry has what rest-server tells of itself, too.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		handler: promhttp.InstrumentMetricHandler(registry, promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry})),
		count:   make(map[Kind]*prometheus.CounterVec),
		bytes:   make(map[Kind]*prometheus.CounterVec),
	}
	for kind, done := range map[Kind]string{Write: "written", Read: "read", Delete: "deleted"} {
		labels := []string{"user", "repo", "type"}
		m.count[kind] = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rest_server_blob_" + string(kind) + "_total", Help: "Objects that were " + done + ".",
		}, labels)
		m.bytes[kind] = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rest_server_blob_" + string(kind) + "_bytes_total", Help: "Bytes of objects that were " + done + ".",
		}, labels)
		for _, c := range []prometheus.Collector{m.count[kind], m.bytes[kind]} {
			if err := registry.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics: %w", err)
			}
		}
	}
	return m, nil
}

// observer counts what one user does in one repository. The config is no blob.
func (m *metrics) observer(user, repo string) func(Event) {
	// A label that is no UTF-8 would be an error; folders may have any name.
	user, repo = strings.ToValidUTF8(user, "?"), strings.ToValidUTF8(repo, "?")
	return func(e Event) {
		if e.Type == configType {
			return
		}
		m.count[e.Kind].WithLabelValues(user, repo, e.Type).Inc()
		m.bytes[e.Kind].WithLabelValues(user, repo, e.Type).Add(float64(e.Bytes))
	}
}
