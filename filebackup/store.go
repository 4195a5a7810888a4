package filebackup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// store is a bucket. What fails for reasons that pass is tried again; everything may be called from several goroutines.
type store struct {
	core         *minio.Core
	bucket       string
	storageClass string
	secure       bool
	retain       time.Duration // Object Lock of what is stored from now on
	skew         atomic.Int64  // nanoseconds that the server's clock is ahead of ours
	requests     atomic.Int64
	backoff      time.Duration // before the second attempt
	fault        func(point string) error
	client       *http.Client // for what core cannot do
}

// attempts is how often a request is tried; with the pauses in between that is about a minute.
const attempts = 9

const maxBackoff = 15 * time.Second

// ErrNotFound says that there is no such object, or version of it.
var ErrNotFound = errors.New("is not there")

// objectVersion is a version of an object, or a marker that it was deleted.
type objectVersion struct {
	Key      string
	ID       string
	Modified time.Time
	Size     int64
	Marker   bool
	Latest   bool
}

func newStore(c *Config) (*store, error) {
	endpoint := c.S3.Endpoint
	if endpoint == "" {
		endpoint = "https://s3.amazonaws.com"
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("s3.endpoint: %q is no address of a server", c.S3.Endpoint)
	}
	region := c.S3.Region
	if region == "" && c.S3.Endpoint != "" {
		region = "us-east-1" // else every first request would ask for it
	}
	s := &store{secure: u.Scheme == "https", bucket: c.S3.Bucket, storageClass: c.S3.StorageClass, retain: c.retain, backoff: 200 * time.Millisecond}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   2*c.parallel() + 4,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		ResponseHeaderTimeout: 2 * time.Minute, // a server that accepts and never answers
		DisableCompression:    true,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}
	s.client = &http.Client{Transport: &clockTransport{transport, s}}
	s.core, err = minio.NewCore(u.Host, &minio.Options{
		Creds:      credentials.NewStaticV4(c.S3.AccessKey, c.S3.SecretKey, c.S3.SessionToken),
		Secure:     s.secure,
		Region:     region,
		Transport:  s.client.Transport,
		MaxRetries: 1, // retry does it
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// clockTransport notes how far the server's clock is from ours.
type clockTransport struct {
	http.RoundTripper
	s *store
}

func (t *clockTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.s.requests.Add(1)
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		t.s.skew.Store(int64(time.Until(date)))
	}
	return resp, nil
}

// serverNow is the time by the server's clock, which stamps objects.
func (s *store) serverNow() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

// explain says in plain words what the server refused.
func (s *store) explain(err error) error {
	var response minio.ErrorResponse
	var request *url.Error
	switch {
	case errors.As(err, &request): // it has the address of the object, with all that signs it
		return fmt.Errorf("the server %s cannot be reached: %w", s.core.EndpointURL().Host, request.Err)
	case !errors.As(err, &response):
		return err
	}
	switch response.Code {
	case "RequestTimeTooSkewed":
		ahead, word := time.Duration(s.skew.Load()).Round(time.Second), "behind"
		if ahead < 0 {
			ahead, word = -ahead, "ahead of"
		}
		return fmt.Errorf("this machine's clock is %v %s the server's, which therefore refuses requests: set the clock", ahead, word)
	case "NoSuchKey", "NoSuchVersion":
		return ErrNotFound
	case "InvalidArgument": // versitygw, of a version that was removed
		if strings.Contains(strings.ToLower(response.Message), "version id") {
			return ErrNotFound
		}
	case "ObjectParentIsFile", "ExistingObjectIsDirectory", "XMinioParentIsObject", "XMinioObjectExistsAsDirectory":
		return errNameTaken
	case "NoSuchBucket":
		return fmt.Errorf("the bucket %q is not there", s.bucket)
	case "InvalidAccessKeyId", "XAdminUserNotFound":
		return errors.New("the server does not know the access key")
	case "SignatureDoesNotMatch":
		return errors.New("the secret key is not that of the access key")
	}
	if response.StatusCode == http.StatusNotFound {
		return ErrNotFound
	}
	if response.Code == "AccessDenied" || response.StatusCode == http.StatusForbidden {
		return errAccess
	}
	return fmt.Errorf("the server answers %d %s: %s", response.StatusCode, response.Code, response.Message)
}

// errNameTaken says that an object and others "below" it cannot be on this server, which keeps them as files and folders.
var errNameTaken = errors.New("the server has an object where this one needs a folder, or a folder in its place")

// errAccess says that the key may not do that.
var errAccess = errors.New("the access key is not allowed to do that")

// ErrTransient is what errors are that may be gone the next time: those of the network, and of servers with too much to do.
var ErrTransient = errors.New("the server cannot be reached, or is overloaded")

type transientError struct{ error }

func (e *transientError) Unwrap() error        { return e.error }
func (e *transientError) Is(target error) bool { return target == ErrTransient }

// transient tells whether an error may be gone the next time.
func transient(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var response minio.ErrorResponse
	if errors.As(err, &response) {
		switch response.Code {
		case "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException", "XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody":
			return true
		}
		return response.StatusCode >= 500 && response.StatusCode != http.StatusNotImplemented || response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusRequestTimeout
	}
	var unknown *net.DNSError
	if errors.As(err, &unknown) && unknown.IsNotFound {
		return false
	}
	return true // of the network
}

// retry tries until it works, the error is one that stays, or it has been tried often enough.
func (s *store) retry(ctx context.Context, try func() error) error {
	pause := s.backoff
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !transient(err) {
			return s.explain(err)
		}
		if n == attempts {
			return &transientError{s.explain(err)}
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, maxBackoff)
	}
}

func (s *store) wrap(err error, doing, key string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", doing, key, err)
}

func (s *store) putOptions(locked bool) minio.PutObjectOptions {
	o := minio.PutObjectOptions{StorageClass: s.storageClass, ContentType: "application/octet-stream"}
	if locked && s.retain > 0 {
		o.Mode, o.RetainUntilDate = minio.Compliance, s.serverNow().Add(s.retain)
	}
	return o
}

// sum is the hash that a request is signed with. Where there is no TLS, the body is signed in chunks while it is sent.
func (s *store) sum(body []byte) string {
	if !s.secure {
		return ""
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// put stores an object and returns its version. Locked is what Object Lock shall keep.
func (s *store) put(ctx context.Context, key string, body []byte, locked bool) (id string, err error) {
	sum := s.sum(body)
	options := s.putOptions(locked)
	if locked && s.retain > 0 {
		options.SendContentMd5 = true
	}
	err = s.retry(ctx, func() error {
		if err := s.at("put " + key); err != nil {
			return err
		}
		info, err := s.core.PutObject(ctx, s.bucket, key, bytes.NewReader(body), int64(len(body)), md5Of(body, locked && s.retain > 0), sum, options)
		id = info.VersionID
		return err
	})
	if err == nil && id == "" {
		err = errors.New("the server gave it no version: versioning of the bucket is not enabled")
	}
	return id, s.wrap(err, "store", key)
}

// at is a place where a test can make things go wrong.
func (s *store) at(point string) error {
	if s.fault != nil {
		return s.fault(point)
	}
	return nil
}

// open begins to read a version of an object; "" is the latest. The reader goes on by itself where the connection is cut.
func (s *store) open(ctx context.Context, key, id string) (*objectReader, error) {
	r := &objectReader{ctx: ctx, s: s, version: objectVersion{Key: key, ID: id}}
	err := s.retry(ctx, r.connect)
	if err != nil {
		return nil, s.wrap(err, "read", key)
	}
	return r, nil
}

// get reads a version of an object; "" is the latest.
func (s *store) get(ctx context.Context, key, id string) ([]byte, objectVersion, error) {
	r, err := s.open(ctx, key, id)
	if err != nil {
		return nil, objectVersion{}, err
	}
	defer r.Close()
	if r.version.Size > maxMetaSize {
		return nil, objectVersion{}, fmt.Errorf("read %q: it has %d bytes", key, r.version.Size)
	}
	body := make([]byte, r.version.Size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, objectVersion{}, s.wrap(cutOff(err), "read", key)
	}
	return body, r.version, nil
}

// objectReader reads an object.
type objectReader struct {
	ctx     context.Context
	s       *store
	version objectVersion
	body    io.ReadCloser
	at      int64
	failed  int
}

func (r *objectReader) connect() error {
	options := minio.GetObjectOptions{VersionID: r.version.ID}
	if r.at > 0 {
		if err := options.SetRange(r.at, 0); err != nil {
			return err
		}
	}
	body, info, _, err := r.s.core.GetObject(r.ctx, r.s.bucket, r.version.Key, options)
	if err != nil {
		return err
	}
	if r.at == 0 {
		r.version.ID, r.version.Modified, r.version.Size = info.VersionID, info.LastModified, info.Size
	}
	r.body = body
	return nil
}

func (r *objectReader) Read(p []byte) (int, error) {
	for {
		if r.at >= r.version.Size {
			return 0, io.EOF
		}
		if r.body == nil {
			if err := r.s.retry(r.ctx, r.connect); err != nil {
				return 0, err
			}
		}
		n, err := r.body.Read(p)
		r.at += int64(n)
		if err != nil && r.at < r.version.Size {
			r.body.Close()
			r.body = nil
			if n == 0 {
				if r.failed++; r.failed > attempts {
					return 0, err
				}
				if r.ctx.Err() != nil {
					return 0, context.Cause(r.ctx)
				}
			}
		}
		if n > 0 {
			r.failed = 0
			return n, nil
		}
	}
}

func (r *objectReader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}

// head tells of the latest version of an object.
func (s *store) head(ctx context.Context, key string) (v objectVersion, err error) {
	err = s.retry(ctx, func() error {
		info, err := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{})
		v = objectVersion{Key: key, ID: info.VersionID, Modified: info.LastModified, Size: info.Size, Latest: true}
		return err
	})
	return v, s.wrap(err, "look at", key)
}

// versions goes through the versions of all objects whose names begin so, the newest of an object first.
func (s *store) versions(ctx context.Context, prefix string, each func(objectVersion) bool) error {
	after := ""
	skip := map[string]bool{} // of the object where a request failed, what has been handed out
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	last := ""
	err := s.retry(ctx, func() error {
		inner, stop := context.WithCancel(ctx)
		defer stop()
		for info := range s.core.ListObjectsIter(inner, s.bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true, Prefix: prefix, StartAfter: after}) {
			if info.Err != nil {
				return info.Err
			}
			if info.Key != last {
				after, last = last, info.Key
				clear(skip)
			}
			if skip[info.VersionID] {
				continue
			}
			skip[info.VersionID] = true
			if !each(objectVersion{info.Key, info.VersionID, info.LastModified, info.Size, info.IsDeleteMarker, info.IsLatest}) {
				return nil
			}
		}
		return nil
	})
	return s.wrap(err, "list versions of", prefix)
}

// keyVersions are the versions of one object, the newest first, until one is reached that enough holds for.
func (s *store) keyVersions(ctx context.Context, key string, enough func(objectVersion) bool) (list []objectVersion, err error) {
	err = s.versions(ctx, key, func(v objectVersion) bool {
		if v.Key != key { // others begin with the same letters
			return v.Key < key
		}
		list = append(list, v)
		return enough == nil || !enough(v)
	})
	return list, err
}

// remove removes a version of an object for ever, or, where the version is "", hides the object.
func (s *store) remove(ctx context.Context, key, id string) error {
	err := s.retry(ctx, func() error {
		if err := s.at("remove " + key); err != nil {
			return err
		}
		return s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{VersionID: id})
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return s.wrap(err, "remove", key)
}

// versioning tells whether the bucket keeps versions.
func (s *store) versioning(ctx context.Context) (enabled bool, err error) {
	err = s.retry(ctx, func() error {
		status, err := s.core.GetBucketVersioning(ctx, s.bucket)
		enabled = status.Enabled()
		return err
	})
	if err != nil {
		err = fmt.Errorf("versioning of the bucket %q: %w", s.bucket, err)
	}
	return enabled, err
}

// ensureVersioning makes the bucket keep versions, and tells whether it had to.
func (s *store) ensureVersioning(ctx context.Context) (enabled bool, err error) {
	if on, err := s.versioning(ctx); on || err != nil {
		return false, err
	}
	err = s.retry(ctx, func() error { return s.core.EnableVersioning(ctx, s.bucket) })
	if err != nil {
		return false, fmt.Errorf("enable versioning of the bucket %q: %w", s.bucket, err)
	}
	return true, nil
}

// multipart is an upload in parts.
type multipart struct {
	key, id string
	mu      sync.Mutex
	parts   []minio.CompletePart // in the order in which they were stored
}

func (s *store) beginMultipart(ctx context.Context, key string) (*multipart, error) {
	m := &multipart{key: key}
	err := s.retry(ctx, func() (err error) {
		if err := s.at("begin " + key); err != nil {
			return err
		}
		m.id, err = s.core.NewMultipartUpload(ctx, s.bucket, key, s.putOptions(true))
		return err
	})
	return m, s.wrap(err, "store", key)
}

func (s *store) putPart(ctx context.Context, m *multipart, number int, body []byte) error {
	sum := s.sum(body)
	err := s.retry(ctx, func() error {
		if err := s.at(fmt.Sprintf("part %d %s", number, m.key)); err != nil {
			return err
		}
		part, err := s.core.PutObjectPart(ctx, s.bucket, m.key, m.id, number, bytes.NewReader(body), int64(len(body)),
			minio.PutObjectPartOptions{Sha256Hex: sum, Md5Base64: md5Of(body, s.retain > 0)})
		if err == nil {
			m.mu.Lock()
			m.parts = append(m.parts, minio.CompletePart{PartNumber: number, ETag: part.ETag})
			m.mu.Unlock()
		}
		return err
	})
	return s.wrap(err, "store", m.key)
}

func (s *store) completeMultipart(ctx context.Context, m *multipart) (id string, err error) {
	slices.SortFunc(m.parts, func(a, b minio.CompletePart) int { return a.PartNumber - b.PartNumber })
	err = s.retry(ctx, func() error {
		if err := s.at("complete " + m.key); err != nil {
			return err
		}
		info, err := s.core.CompleteMultipartUpload(ctx, s.bucket, m.key, m.id, m.parts, minio.PutObjectOptions{})
		id = info.VersionID
		return err
	})
	if err == nil && id == "" {
		// Some servers tell the version of a completed upload only to who asks for it.
		v, err := s.head(ctx, m.key)
		return v.ID, err
	}
	return id, s.wrap(err, "store", m.key)
}

func (s *store) abortMultipart(ctx context.Context, key, id string) error {
	err := s.retry(ctx, func() error { return s.core.AbortMultipartUpload(ctx, s.bucket, key, id) })
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return s.wrap(err, "give up the upload of", key)
}
