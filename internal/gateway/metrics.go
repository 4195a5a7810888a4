package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics exposes. Labels are of the configuration, never of what a client sent: their number is bounded.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	received  *prometheus.CounterVec
	sent      *prometheus.CounterVec
	snapshots *prometheus.GaugeVec
	failures  prometheus.Counter
	handler   http.Handler
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backup_gateway_requests_total", Help: "Requests that were answered, by destination, protocol, method and status code.",
		}, []string{"destination", "protocol", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "backup_gateway_request_duration_seconds", Help: "How long requests took until all of the answer was sent.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60, 300},
		}, []string{"destination", "protocol", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "backup_gateway_requests_in_flight", Help: "Requests that are being served.",
		}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backup_gateway_received_bytes_total", Help: "Bytes that clients sent, by destination.",
		}, []string{"destination"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backup_gateway_sent_bytes_total", Help: "Bytes that clients were sent, by destination.",
		}, []string{"destination"}),
		snapshots: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "backup_gateway_last_snapshot_upload_timestamp_seconds", Help: "When a snapshot was last added to a repository, since the gateway started.",
		}, []string{"destination", "repository"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "backup_gateway_authentication_failures_total", Help: "Requests with a wrong password, token or certificate.",
		}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.inFlight, m.received, m.sent, m.snapshots, m.failures, destinationCollector{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// methods are the ones that get a label of their own.
var methods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true, http.MethodDelete: true, http.MethodOptions: true,
	"PROPFIND": true, "PROPPATCH": true, "MKCOL": true, "MOVE": true, "COPY": true, "LOCK": true, "UNLOCK": true,
}

// observe counts a request that was answered.
func (m *metrics) observe(destination string, protocol Protocol, method string, code int, took time.Duration, received, sent int64) {
	if !methods[method] {
		method = "other"
	}
	m.requests.WithLabelValues(destination, string(protocol), method, strconv.Itoa(code)).Inc()
	m.duration.WithLabelValues(destination, string(protocol), method).Observe(took.Seconds())
	m.received.WithLabelValues(destination).Add(float64(received))
	m.sent.WithLabelValues(destination).Add(float64(sent))
}

// destinationCollector tells of each destination when it is asked.
type destinationCollector struct{ *Server }

var (
	upDesc = prometheus.NewDesc("backup_gateway_destination_up",
		"Whether the destination can be used: 0 when its folder is missing, its configuration is wrong, or its storage did not answer when it was last used.",
		[]string{"destination"}, nil)
	usedDesc = prometheus.NewDesc("backup_gateway_repository_size_bytes",
		"What a repository takes, of modules with max-size; and of the destination as a whole, with an empty repository, where that has one.",
		[]string{"destination", "repository"}, nil)
	limitDesc = prometheus.NewDesc("backup_gateway_repository_max_size_bytes", "max-size of a repository, or of the destination as a whole.",
		[]string{"destination", "repository"}, nil)
)

// Describe implements prometheus.Collector.
func (c destinationCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- upDesc
	ch <- usedDesc
	ch <- limitDesc
}

// Collect implements prometheus.Collector.
func (c destinationCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.current()
	for id, d := range st.destinations {
		up := 1.0
		if d.check() != nil {
			up = 0
		}
		ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, up, id)
		for repository, n := range d.usage.snapshot() {
			ch <- prometheus.MustNewConstMetric(usedDesc, prometheus.GaugeValue, float64(n), id, repository)
			for _, l := range st.limits(d, repository) {
				if l.key == repository {
					ch <- prometheus.MustNewConstMetric(limitDesc, prometheus.GaugeValue, float64(l.bytes), id, repository)
				}
			}
		}
	}
}
