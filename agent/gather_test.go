package agent

import (
	"context"
	"testing"
	"time"
)

func TestGatherWaitsOnlyForASlowTPM(t *testing.T) {
	g := newGather()
	leave := g.enter()
	defer leave()
	done := make(chan struct{})
	go func() { g.wait(context.Background()); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("waited for another launch although recording costs nothing")
	}
}

func TestGatherReleasesAllWhenTheLastIsExamined(t *testing.T) {
	g := newGather()
	g.appended = 10 * time.Millisecond
	first, second := g.enter(), g.enter()
	first()
	done := make(chan struct{})
	go func() { g.wait(context.Background()); close(done) }()
	second()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("nobody was left, and it went on waiting")
	}
}

func TestGatherIsBounded(t *testing.T) {
	g := newGather()
	g.appended = time.Hour
	leave := g.enter() // hashes for ever
	defer leave()
	done := make(chan struct{})
	go func() { g.wait(context.Background()); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("waited for a launch that is being hashed")
	}
}
