// Package inventory asks containerd what a container is said to be made of:
// its image, the image's manifest and configuration, its layers' blobs. Nothing
// containerd says is believed as such: every blob is checked against its digest,
// and names are only where the asking begins.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// ErrNotFound says that containerd does not have the thing.
var ErrNotFound = errors.New("not found in containerd")

// Daemon is one containerd. It is safe for concurrent use and reconnects by
// itself; a request fails within the timeout while the daemon is away.
type Daemon struct {
	address string
	timeout time.Duration
	conn    *grpc.ClientConn
	images  *imageCache
	blobs   blobRoot
}

// Open prepares a connection to the daemon at the gRPC socket address. It does
// not need the daemon to be there yet.
func Open(address string, timeout time.Duration) (*Daemon, error) {
	conn, err := grpc.NewClient("unix://"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: timeout, Backoff: quickBackoff}),
		// A daemon that has just been restarted is waited for, within the timeout of
		// each request, rather than called away because of an attempt before.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.WaitForReady(true)))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", address, err)
	}
	return &Daemon{address: address, timeout: timeout, conn: conn, images: newImageCache()}, nil
}

// maxMessage bounds one answer of containerd, as its own client does.
const maxMessage = 16 << 20

// Address is the gRPC socket the daemon is reached at.
func (d *Daemon) Address() string { return d.address }

// Close ends the connection.
func (d *Daemon) Close() error { return d.conn.Close() }

// Container is what containerd has stored of a container.
type Container struct {
	ID, Image, Snapshotter, SnapshotKey, Runtime string
	Labels                                       map[string]string
	Created                                      time.Time
}

// Container looks one up. Its error wraps ErrNotFound when there is none.
func (d *Daemon) Container(ctx context.Context, ns, id string) (*Container, error) {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	r, err := containersapi.NewContainersClient(d.conn).Get(ctx, &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return nil, d.wrap("container "+ns+"/"+id, err)
	}
	return container(r.GetContainer()), nil
}

func container(c *containersapi.Container) *Container {
	return &Container{
		ID: c.GetID(), Image: c.GetImage(), Snapshotter: c.GetSnapshotter(), SnapshotKey: c.GetSnapshotKey(),
		Runtime: c.GetRuntime().GetName(), Labels: c.GetLabels(), Created: c.GetCreatedAt().AsTime(),
	}
}

// Namespaces lists containerd's namespaces.
func (d *Daemon) Namespaces(ctx context.Context) ([]string, error) {
	ctx, cancel := d.request(ctx, "default")
	defer cancel()
	r, err := namespacesapi.NewNamespacesClient(d.conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, d.wrap("namespaces", err)
	}
	var out []string
	for _, n := range r.GetNamespaces() {
		out = append(out, n.GetName())
	}
	return out, nil
}

// Task is a container that has processes, or had until it was stopped.
type Task struct {
	ID    string
	PID   uint32
	State string
	// Runtime is the runtime's name, by the container's record.
	Runtime string
	Image   string
}

// Tasks lists the tasks of one namespace.
func (d *Daemon) Tasks(ctx context.Context, ns string) ([]Task, error) {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	r, err := tasksapi.NewTasksClient(d.conn).List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, d.wrap("tasks of "+ns, err)
	}
	var out []Task
	for _, t := range r.GetTasks() {
		// A task's id in its ContainerID field is empty on older daemons.
		task := Task{ID: t.GetID(), PID: t.GetPid(), State: t.GetStatus().String()}
		c, err := containersapi.NewContainersClient(d.conn).Get(ctx, &containersapi.GetContainerRequest{ID: task.ID})
		switch {
		case status.Code(err) == codes.NotFound:
		case err != nil:
			return nil, d.wrap("container "+ns+"/"+task.ID, err)
		default:
			task.Runtime, task.Image = c.GetContainer().GetRuntime().GetName(), c.GetContainer().GetImage()
		}
		out = append(out, task)
	}
	return out, nil
}

// parent names the committed snapshot that the snapshot key stands on.
func (d *Daemon) parent(ctx context.Context, ns, snapshotter, key string) (string, error) {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	r, err := snapshotsapi.NewSnapshotsClient(d.conn).Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil {
		return "", d.wrap("snapshot "+key, err)
	}
	return r.GetInfo().GetParent(), nil
}

// Layers returns the mounts of a read-only view of the committed snapshot name,
// prepared under key, which RemoveSnapshot takes away again.
func (d *Daemon) View(ctx context.Context, ns, snapshotter, key, name string) ([]Mount, error) {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	r, err := snapshotsapi.NewSnapshotsClient(d.conn).View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: snapshotter, Key: key, Parent: name})
	if err != nil {
		return nil, d.wrap("snapshot "+name, err)
	}
	var out []Mount
	for _, m := range r.GetMounts() {
		out = append(out, Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()})
	}
	return out, nil
}

// Mount is one mount of a snapshot.
type Mount struct {
	Type, Source, Target string
	Options              []string
}

// RemoveSnapshot removes the snapshot key.
func (d *Daemon) RemoveSnapshot(ctx context.Context, ns, snapshotter, key string) error {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	_, err := snapshotsapi.NewSnapshotsClient(d.conn).Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: snapshotter, Key: key})
	if err != nil && status.Code(err) != codes.NotFound {
		return d.wrap("snapshot "+key, err)
	}
	return nil
}

// Event is one of containerd's events, as it was published.
type Event struct {
	Topic, Namespace string
	TypeURL          string
	Value            []byte
}

// Events calls f for each event of the topics until ctx ends or the daemon goes
// away, which is the error returned.
func (d *Daemon) Events(ctx context.Context, f func(Event), topics ...string) error {
	var filters []string
	for _, t := range topics {
		filters = append(filters, fmt.Sprintf("topic==%q", t))
	}
	s, err := eventsapi.NewEventsClient(d.conn).Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: filters})
	if err != nil {
		return d.wrap("events", err)
	}
	for {
		e, err := s.Recv()
		if err != nil {
			return d.wrap("events", err)
		}
		f(Event{Topic: e.GetTopic(), Namespace: e.GetNamespace(), TypeURL: e.GetEvent().GetTypeUrl(), Value: e.GetEvent().GetValue()})
	}
}

// imageTarget asks for the digest an image's name stands for now.
func (d *Daemon) imageTarget(ctx context.Context, ns, name string) (string, string, error) {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	r, err := imagesapi.NewImagesClient(d.conn).Get(ctx, &imagesapi.GetImageRequest{Name: name})
	if err != nil {
		return "", "", d.wrap("image "+name, err)
	}
	t := r.GetImage().GetTarget()
	return t.GetDigest(), t.GetMediaType(), nil
}

// ImageNames lists the images of a namespace.
func (d *Daemon) ImageNames(ctx context.Context, ns string) ([]string, error) {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	r, err := imagesapi.NewImagesClient(d.conn).List(ctx, &imagesapi.ListImagesRequest{})
	if err != nil {
		return nil, d.wrap("images of "+ns, err)
	}
	var out []string
	for _, i := range r.GetImages() {
		out = append(out, i.GetName())
	}
	return out, nil
}

func (d *Daemon) content() contentapi.ContentClient { return contentapi.NewContentClient(d.conn) }

func (d *Daemon) introspection() introspectionapi.IntrospectionClient {
	return introspectionapi.NewIntrospectionClient(d.conn)
}

func (d *Daemon) request(ctx context.Context, ns string) (context.Context, context.CancelFunc) {
	return context.WithTimeout(namespaces.WithNamespace(ctx, ns), d.timeout)
}

// wrap names the daemon and the thing, and makes "not found" an ErrNotFound.
func (d *Daemon) wrap(thing string, err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return fmt.Errorf("%s: %w", thing, ErrNotFound)
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("%s: containerd at %s does not answer: %w\nhint: containerd.addresses in /etc/sealift/config.toml names the daemons this agent may ask", thing, d.address, err)
	}
	return fmt.Errorf("%s: containerd at %s: %w", thing, d.address, err)
}

// HasSnapshot says whether the committed snapshot name exists.
func (d *Daemon) HasSnapshot(ctx context.Context, ns, snapshotter, name string) (bool, error) {
	ctx, cancel := d.request(ctx, ns)
	defer cancel()
	r, err := snapshotsapi.NewSnapshotsClient(d.conn).Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: name})
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	if err != nil {
		return false, d.wrap("snapshot "+name, err)
	}
	return r.GetInfo().GetKind() == snapshotsapi.Kind_COMMITTED, nil
}

// Snapshotters lists the snapshotters that the daemon has running.
func (d *Daemon) Snapshotters(ctx context.Context) ([]string, error) {
	ctx, cancel := d.request(ctx, "default")
	defer cancel()
	r, err := d.introspection().Plugins(ctx, &introspectionapi.PluginsRequest{Filters: []string{"type==io.containerd.snapshotter.v1"}})
	if err != nil {
		return nil, d.wrap("snapshotters", err)
	}
	var out []string
	for _, p := range r.GetPlugins() {
		if p.GetInitErr() == nil {
			out = append(out, p.GetID())
		}
	}
	return out, nil
}
