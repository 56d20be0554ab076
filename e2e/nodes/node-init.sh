#!/bin/bash
# node-init.sh NAME INDEX DIR: process 1 of a node, started in new cgroup, network, UTS, IPC, mount
# and PID namespaces. It gives the node its own view of /proc, /sys, cgroups, /run, /var/lib and
# /var/log, then starts control plane, container runtime, kubelet, kube-proxy and the load balancer,
# each again when it ends. Bash as process 1 reaps orphans; when it dies, the kernel ends all of it.
#
# From the environment: PATH with every program, CNI_BIN, RUNC, BOOT_IMAGES (tars, space separated).
#
# A component rests while DIR/stopped/<component> exists; DIR/run/<component>.pid is its process id
# inside the node.
set -eu
name=$1 n=$2 dir=$3
ip=172.30.0.$((10 + n))
pods=10.$((200 + n)).0.0/16 podnet=10.$((200 + n)).0.0/24
services=10.$((100 + n)).0.0/16 dns=10.$((100 + n)).0.10
pki=$dir/pki

# --- the node's own view of the kernel -------------------------------------------------
mount --make-rshared / # kubelet and runc want propagation below /
mount -t proc proc /proc
mount -t sysfs sysfs /sys # shows this network namespace's devices
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
	mkdir /sys/fs/cgroup/$c
	mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c
done
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/sysctl
# Most sysctls are the whole machine's, not the node's. kubelet sets six of them and does not start
# where it cannot, so over those six lie files that have the wanted value already; everything else
# is read-only, except what belongs to the node's own network.
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,rw,bind /proc/sys/net
for kv in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	f=/run/sysctl/$(echo ${kv%=*} | tr / .)
	echo ${kv#*=} >"$f"
	mount --bind "$f" /proc/sys/${kv%=*}
done
mount --bind "$dir/varlib" /var/lib
mount --bind "$dir/log" /var/log
mkdir -p /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers
hostname "$name-node"

# --- network ----------------------------------------------------------------------------
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add "$ip/16" dev eth0
ip link set eth0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
# There is no default route. Without this one the node's own connections to a ClusterIP (the API
# server's to a webhook) end in ENETUNREACH: the route is looked up before kube-proxy's rules
# rewrite the destination. Pods do not need it, they have cni0 as default.
ip route add "$services" dev eth0 src "$ip"
: >"$dir/conf/resolv.conf" # no upstream resolver

mkdir -p "$dir/conf/cni"
# nftables everywhere: one backend, and the tables of kube-proxy and the plugins do not meet
cat >"$dir/conf/cni/10-pods.conflist" <<K
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipMasq": true, "ipMasqBackend": "nftables",
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$podnet"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]}
K

keep() { # component, command...: run, log, start again when it ends
	local component=$1
	shift
	(
		while :; do
			if [ -e "$dir/stopped/$component" ]; then
				sleep 0.1
				continue
			fi
			"$@" >>"$dir/log/$component.log" 2>&1 &
			echo $! >"$dir/run/$component.pid"
			wait $! || true
			echo "=== ended, again" >>"$dir/log/$component.log"
			sleep 0.3
		done
	) &
}
api_ready() { until curl -sfko /dev/null --max-time 2 https://127.0.0.1:6443/readyz; do sleep 0.1; done; }

# --- control plane ----------------------------------------------------------------------
keep etcd etcd --name e --data-dir /var/lib/etcd --listen-client-urls http://127.0.0.1:2379 \
	--advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 \
	--initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster e=http://127.0.0.1:2380 \
	--unsafe-no-fsync
keep kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address 0.0.0.0 --advertise-address "$ip" \
	--secure-port 6443 --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
	--client-ca-file "$pki/ca.crt" --service-cluster-ip-range "$services" \
	--kubelet-client-certificate "$pki/apiserver-kubelet-client.crt" \
	--kubelet-client-key "$pki/apiserver-kubelet-client.key" --kubelet-certificate-authority "$pki/ca.crt" \
	--kubelet-preferred-address-types InternalIP,Hostname \
	--requestheader-client-ca-file "$pki/front-proxy-ca.crt" --requestheader-allowed-names front-proxy-client \
	--requestheader-extra-headers-prefix X-Remote-Extra- --requestheader-group-headers X-Remote-Group \
	--requestheader-username-headers X-Remote-User \
	--proxy-client-cert-file "$pki/front-proxy-client.crt" --proxy-client-key-file "$pki/front-proxy-client.key" \
	--service-account-issuer https://kubernetes.default.svc.cluster.local \
	--service-account-key-file "$pki/sa.key" --service-account-signing-key-file "$pki/sa.key" \
	--authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
	--admission-control-config-file "$dir/conf/admission.yaml" \
	--audit-policy-file "$dir/conf/audit-policy.yaml" --audit-log-path "$dir/log/audit.log" --audit-log-maxsize 200
# Both end when they ask before the API server has written its bootstrap roles, which readyz says.
controllers() {
	api_ready
	exec kube-controller-manager --kube-api-qps 300 --kube-api-burst 500 --kubeconfig "$dir/conf/kcm.conf" \
		--leader-elect=false --bind-address 127.0.0.1 --use-service-account-credentials \
		--service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" \
		--cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key" \
		--allocate-node-cidrs --cluster-cidr "$pods" --service-cluster-ip-range "$services" \
		--authentication-kubeconfig "$dir/conf/kcm.conf" --authorization-kubeconfig "$dir/conf/kcm.conf"
}
scheduler() {
	api_ready
	exec kube-scheduler --kubeconfig "$dir/conf/scheduler.conf" --leader-elect=false --bind-address 127.0.0.1 \
		--authentication-kubeconfig "$dir/conf/scheduler.conf" --authorization-kubeconfig "$dir/conf/scheduler.conf"
}
keep kube-controller-manager controllers
keep kube-scheduler scheduler

# --- container runtime ------------------------------------------------------------------
cat >"$dir/conf/containerd.toml" <<K
version = 2
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "kof.test/pause:1"
  # without CAP_SYS_RESOURCE a negative oom_score_adj (pause: -998) cannot be written
  restrict_oom_score_adj = true
  # as containerd 2 has it: a pod's own network needs no capability for port 53
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_BIN"
    conf_dir = "$dir/conf/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "$RUNC"
        SystemdCgroup = false
K
keep containerd containerd --config "$dir/conf/containerd.toml"
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for t in $BOOT_IMAGES; do ctr -n k8s.io images import "$t"; done

# --- kubelet, kube-proxy, load balancer -----------------------------------------------------
cat >"$dir/conf/kubelet.yaml" <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false                # 1.35 and later refuse v1 unless told so
cgroupDriver: cgroupfs
cgroupRoot: /                      # the root of the cgroup namespace, not the machine's
oomScoreAdj: 0                     # -999 needs CAP_SYS_RESOURCE
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet-serving.crt
tlsPrivateKeyFile: $pki/kubelet-serving.key
clusterDomain: cluster.local
clusterDNS: [$dns]
resolvConf: $dir/conf/resolv.conf
failSwapOn: false
makeIPTablesUtilChains: false
# the disk is the machine's: its fill level must neither evict pods nor collect images
imageGCHighThresholdPercent: 100
syncFrequency: 10s                 # a changed ConfigMap is in its volumes after this long at most
evictionHard: {nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", memory.available: 100Mi}
K
kubelet_() {
	api_ready
	exec kubelet --config "$dir/conf/kubelet.yaml" --kubeconfig "$dir/conf/kubelet.conf" \
		--hostname-override "$name-node" --node-ip "$ip" \
		--node-labels "topology.kubernetes.io/region=$name,topology.kubernetes.io/zone=$name-a"
}
keep kubelet kubelet_
cat >"$dir/conf/proxy.yaml" <<K
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $dir/conf/proxy.conf}
clusterCIDR: $pods
hostnameOverride: $name-node
nftables: {minSyncPeriod: 100ms}
# nf_conntrack_max is the machine's and read-only in a network namespace
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
K
proxy() {
	api_ready
	exec kube-proxy --config "$dir/conf/proxy.yaml"
}
keep kube-proxy proxy
balancer() {
	api_ready
	exec loadbalancer -ca "$pki/ca.crt" -cert "$pki/load-balancer.crt" -key "$pki/load-balancer.key" -prefix "172.30.$n."
}
keep load-balancer balancer

while :; do
	wait -n || true
	sleep 1
done
