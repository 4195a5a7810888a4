package gateway

import (
	"crypto/tls"
	"fmt"
	"sync"
	"time"
)

// reloaded is a certificate that is read again when its file has changed.
type reloaded struct {
	TLS

	mu      sync.Mutex
	mark    string
	checked time.Time
	pair    *tls.Certificate
}

// certificate is for tls.Config.GetCertificate. A new file that cannot be used leaves the old certificate in place.
func (r *reloaded) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pair != nil && time.Since(r.checked) < time.Second {
		return r.pair, nil
	}
	r.checked = time.Now()
	mark := fileMark(r.Cert) + fileMark(r.Key)
	if r.pair != nil && mark == r.mark {
		return r.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(r.Cert, r.Key)
	if err != nil {
		if r.pair != nil {
			return r.pair, nil
		}
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	r.pair, r.mark = &pair, mark
	return r.pair, nil
}
