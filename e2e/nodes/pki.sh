#!/bin/bash
# pki.sh NAME INDEX DIR: keys, certificates and kubeconfigs of one cluster, as kubeadm lays them out.
# They live as long as the cluster does and protect a network that nothing else is on.
set -euo pipefail
name=$1 n=$2 dir=$3
ip=172.30.0.$((10 + n))
cd "$dir/pki"

authority() { # file, common name
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.crt" \
		-subj "/CN=$2" -days 3650 -addext basicConstraints=critical,CA:TRUE \
		-addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
}

certificate() { # file, subject, authority, extended usage, [subject alternative names]
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.crt" \
		-subj "$2" -days 3650 -CA "$3.crt" -CAkey "$3.key" -set_serial "0x$(openssl rand -hex 8)" \
		-addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
		-addext "extendedKeyUsage=$4" ${5:+-addext "subjectAltName=$5"}
}

kubeconfig() { # certificate, file
	cat >"$2" <<-K
		apiVersion: v1
		kind: Config
		clusters:
		- name: $name
		  cluster: {server: "https://$ip:6443", certificate-authority-data: $(base64 -w0 ca.crt)}
		users:
		- name: $1
		  user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}
		contexts:
		- name: $name
		  context: {cluster: $name, user: $1}
		current-context: $name
	K
}

authority ca kubernetes
authority front-proxy-ca front-proxy-ca
openssl genrsa -out sa.key 2048 # RSA, as kubeadm does: service account tokens are RS256
service=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
certificate apiserver /CN=kube-apiserver ca serverAuth \
	"$service,DNS:localhost,DNS:$name-node,IP:$ip,IP:127.0.0.1,IP:10.$((100 + n)).0.1"
certificate kubelet-serving "/O=system:nodes/CN=system:node:$name-node" ca serverAuth "DNS:$name-node,IP:$ip"
certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client ca clientAuth
certificate front-proxy-client /CN=front-proxy-client front-proxy-ca clientAuth
certificate admin /O=system:masters/CN=kubernetes-admin ca clientAuth
certificate load-balancer /O=system:masters/CN=fleet-load-balancer ca clientAuth
certificate kcm /CN=system:kube-controller-manager ca clientAuth
certificate scheduler /CN=system:kube-scheduler ca clientAuth
certificate proxy /CN=system:kube-proxy ca clientAuth
certificate kubelet "/O=system:nodes/CN=system:node:$name-node" ca clientAuth
kubeconfig admin "$dir/admin.conf"
for c in kcm scheduler proxy kubelet; do kubeconfig $c "$dir/conf/$c.conf"; done
