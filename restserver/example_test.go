package restserver_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/restserver"
)

// A rest-server for users who may add to the repositories below their own names:
//
//	restic -r rest:http://USER:PASSWORD@backup.example:8000/USER/ init
func Example() {
	handler, err := restserver.NewHandler(&restserver.Server{
		Path:         "/srv/restic", // with a file .htpasswd
		PrivateRepos: true,
		AppendOnly:   true,
	})
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{
		Addr:    ":8000",
		Handler: handler,
		// The handler cuts off who is silent in a transfer; before and after one, it is for the server to do so.
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	log.Fatal(server.ListenAndServe())
}

// What is stored is named by its SHA-256, and is a file as restic's local backend has it.
func ExampleNewHandler() {
	dir, err := os.MkdirTemp("", "restserver")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	handler, err := restserver.NewHandler(&restserver.Server{Path: dir, NoAuth: true})
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()

	const name = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" // of "hello"
	for _, content := range []string{"goodbye", "hello", "hello"} {
		resp, err := http.Post(server.URL+"/web/keys/"+name, "", strings.NewReader(content))
		if err != nil {
			log.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Println(strings.TrimSpace(fmt.Sprintln(resp.StatusCode, string(text))))
	}
	data, err := os.ReadFile(filepath.Join(dir, "web", "keys", name))
	fmt.Println(string(data), err)
	// Output:
	// 400 Bad Request: the content does not match the name
	// 200
	// 403 Forbidden: an object of this name is there
	// hello <nil>
}

// A Store is for a server of one's own: it has found out who asks, and what for.
func ExampleStore_Serve() {
	store := &restserver.Store{Dir: "/srv/backup", Sub: "web", Identical: true}
	http.HandleFunc("/web/", func(w http.ResponseWriter, r *http.Request) {
		folders, object, ok := restserver.ParsePath(r.URL.Path)
		if !ok || len(folders) != 1 {
			http.NotFound(w, r)
			return
		}
		if err := store.Serve(w, r, object); err != nil {
			restserver.Answer(w, err)
		}
	})
}
