// A runtime that shares no code with ours: OpenWhisk's container contract in Go, standard library only.
// Its action is built in; the argument's "do" chooses what it does, so that tests can see good and bad behaviour.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

const sentinel = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"

var initialised bool

// Runs that wait for each other, by the "do" that says so: net/http serves each in a goroutine of its own.
var (
	meeting sync.Mutex
	here    int
	all     = make(chan struct{})
)

// meet returns once so many runs are in it at the same time.
func meet(wanted int) {
	meeting.Lock()
	here++
	wait := all
	if here >= wanted {
		close(all)
		here, all = 0, make(chan struct{})
	}
	meeting.Unlock()
	<-wait
}

// answer sends a body with its length: an answer without one counts as none.
func answer(w http.ResponseWriter, status int, body any) {
	data, _ := json.Marshal(body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	w.WriteHeader(status)
	w.Write(data)
}

func failure(text string) map[string]string { return map[string]string{"error": text} }

func initialise(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Value struct {
			Env map[string]string `json:"env"`
		} `json:"value"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		answer(w, 400, failure(err.Error()))
		return
	}
	if initialised {
		answer(w, 403, failure("Cannot initialize the action more than once."))
		return
	}
	for name, text := range request.Value.Env {
		os.Setenv(name, text)
	}
	initialised = true
	answer(w, 200, map[string]bool{"ok": true})
}

func run(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var request map[string]any
	if err := json.Unmarshal(body, &request); err != nil {
		answer(w, 400, failure(err.Error()))
		return
	}
	for name, text := range request {
		if value, ok := text.(string); ok {
			os.Setenv("__OW_"+strings.ToUpper(name), value)
		}
	}
	argument, _ := request["value"].(map[string]any)
	fmt.Println("foreign: run", argument["do"])
	fmt.Fprintln(os.Stderr, "foreign: on stderr")
	status, result := act(w, argument)
	fmt.Println(sentinel)
	fmt.Fprintln(os.Stderr, sentinel)
	if status != 0 {
		answer(w, status, result)
	}
}

// act returns status 0 where it has answered itself.
func act(w http.ResponseWriter, argument map[string]any) (int, any) {
	switch argument["do"] {
	case "env":
		return 200, map[string]any{"env": os.Environ(), "uid": os.Getuid(), "gid": os.Getgid()}
	case "error":
		return 200, failure("as asked")
	case "fail":
		return 502, failure("failed as asked")
	case "exit":
		os.Exit(3)
	case "sleep":
		seconds, _ := argument["seconds"].(float64)
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	case "meet":
		wanted, _ := argument["wanted"].(float64)
		meet(int(wanted))
		for began := time.Now(); time.Since(began) < 20*time.Millisecond; { // something to meter
		}
	case "scalar":
		return 200, 42
	case "rubbish": // no HTTP at all
		connection, _, _ := w.(http.Hijacker).Hijack()
		connection.Write([]byte("this is no HTTP\r\n\r\n"))
		connection.Close()
		return 0, nil
	}
	return 200, map[string]any{"echo": argument}
}

func main() {
	http.HandleFunc("/init", initialise)
	http.HandleFunc("/run", run)
	// It closes idle connections after a second: a client that keeps one over a longer freeze finds it dead.
	server := http.Server{Addr: ":8080", IdleTimeout: time.Second}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}
